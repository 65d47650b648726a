# The whole set-up and every check. On a fresh machine: Python 3.11-3.13 with venv, make and a C++ compiler.
#   make demo    set up, then the demo: stack, simulated world, training, live traffic, proof
#   make test    all tests, those on a real Kafka and Redis included
#   make check   formatting, lint, types, import rules, generated stubs, unit and contract tests; changes nothing
#   make fmt     put formatting and import order right
#   make protos  generate liverank/v1 from protos/
#   make setup   only the set-up (quick when nothing changed)
#   make lock    resolve the dependencies anew into requirements.lock
#   make clean   stop the stack of this checkout and remove its data; .venv and the download cache stay

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PACKAGES := liverank streams features bandits ranker evaluation infra bench
CODE := $(PACKAGES) tests examples
PROTOS := protos/liverank/v1/*.proto
# Overrides the search: make setup PYTHON=/opt/python3.12/bin/python3
PYTHON ?=
# Tests at once: most of the time of a test of processes is waiting. Files stay together, in order.
JOBS ?= 3
PARALLEL := -n $(JOBS) --dist loadfile --no-loadscope-reorder
# Where bytecode is not kept, every process compiles every library anew: 3 s of CPU a start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test check static fmt protos lock clean format-check lint types imports stubs unit

help:
	@sed -n 's/^#  *make /make /p' Makefile

setup: $(READY)
	@:

$(READY): requirements.lock pyproject.toml infra/setup.sh
	@PYTHON="$(PYTHON)" bash infra/setup.sh $(VENV)
	@touch $@

demo: $(READY)
	@$(BIN)/liverank demo $(ARGS)

test: $(READY)
	@$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

check: static unit

static: format-check lint types imports stubs

format-check: $(READY)
	@$(BIN)/ruff format --check --quiet $(CODE) || { $(BIN)/ruff format --check $(CODE); exit 1; }

lint: $(READY)
	@$(BIN)/ruff check --quiet $(CODE)

types: $(READY)
	@$(BIN)/mypy $(PACKAGES)

imports: $(READY)
	@$(BIN)/lint-imports --no-logo

stubs: $(READY)
	@work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; mkdir -p $$work/liverank/v1; \
	$(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=$$work --grpc_python_out=$$work --pyi_out=$$work $(PROTOS); \
	for file in $$work/liverank/v1/*; do \
	  cmp -s $$file liverank/v1/$$(basename $$file) || { echo "liverank/v1/$$(basename $$file) differs from protos/: run make protos"; exit 1; }; \
	done; echo "generated stubs equal protos/"

unit: $(READY)
	@$(BIN)/python -m pytest -q $(PARALLEL) tests/unit tests/contract tests/properties tests/golden

fmt: $(READY)
	@$(BIN)/ruff check --quiet --fix-only $(CODE)
	@$(BIN)/ruff format --quiet $(CODE)

protos: $(READY)
	@$(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=. --grpc_python_out=. --pyi_out=. $(PROTOS)

lock: $(READY)
	@$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --extra server --group dev \
	  --generate-hashes --no-emit-index-url --quiet -o requirements.lock

clean:
	@if [ -x $(BIN)/liverank ]; then $(BIN)/liverank down; fi
	@rm -rf .liverank .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist build
