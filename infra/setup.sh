#!/usr/bin/env bash
# Make a virtual environment with everything of requirements.lock, every file checked by its hash.
# usage: setup.sh VENV        PYTHON=... names an interpreter; otherwise the first of 3.11, 3.12, 3.13 that works is taken
set -euo pipefail

venv="$1"
say() { echo "setup: $*" >&2; }

suitable() { "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; }

find_python() {
  local candidates=(python3.11 python3.12 python3.13 python3 python)
  [ -n "${PYTHON:-}" ] && candidates=("$PYTHON")
  for name in "${candidates[@]}"; do
    if suitable "$name"; then command -v "$name"; return; fi
  done
  # Interpreters that pyenv keeps but does not put on the path.
  for name in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[123].*/bin/python; do
    if [ -z "${PYTHON:-}" ] && [ -x "$name" ] && suitable "$name"; then echo "$name"; return; fi
  done
  say "no suitable Python: 3.11, 3.12 or 3.13 with its venv module is needed (${PYTHON:-none of ${candidates[*]}} fits)."
  say "install one (e.g. apt install python3.12-venv), or name it: make setup PYTHON=/path/to/python3.12"
  return 1
}

if ! command -v c++ >/dev/null && ! command -v g++ >/dev/null && ! command -v clang++ >/dev/null; then
  say "no C++ compiler (hnswlib is built from source): install one, e.g. apt install g++"
  exit 1
fi

if [ -x "$venv/bin/python" ] && ! suitable "$venv/bin/python"; then
  say "$venv holds an unsuitable Python: made anew"
  rm -rf "$venv"
fi
if [ ! -x "$venv/bin/python" ]; then
  python="$(find_python)"
  say "$("$python" --version) at $python"
  "$python" -m venv "$venv"
fi

# uv itself by its hash, from the same lock file.
wanted="$(sed -n 's/^uv==\([^ ]*\).*/\1/p' requirements.lock)"
if [ "$("$venv/bin/uv" --version 2>/dev/null | cut -d' ' -f2)" != "$wanted" ]; then
  only_uv="$(mktemp)"
  trap 'rm -f "$only_uv"' EXIT
  awk '/^[^ #]/ { keep = /^uv==/ } keep' requirements.lock >"$only_uv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r "$only_uv"
fi

# The machine's certificates, as pip and the browser use them (an internal mirror is often signed by an own authority).
export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-true}"
started=$SECONDS
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --require-hashes -r requirements.lock
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps --no-build-isolation -e .
"$venv/bin/python" -c 'import sys; from bandits import native as votes; from features import native; sys.exit(native.why_not or votes.why_not or 0)' || say "state runs in Python, several times slower: see above"
say "ready in $((SECONDS - started)) s: $venv"
