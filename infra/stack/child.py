"""``python child.py COMMAND...``: become COMMAND, and end when the supervisor does.

A supervisor that is killed with SIGKILL cannot stop its children. On Linux the kernel does it: each child asks for
SIGTERM at the death of its parent before it turns into the real program. Elsewhere this is a plain exec.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Ask for SIGTERM at the death of the parent; end at once if it is dead already."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the supervisor ended before this process had started")


def main() -> None:
    """Exec the command line."""
    parent, command = os.getppid(), sys.argv[1:]
    die_with_parent(parent)
    try:
        os.execv(command[0], command)
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error}")


if __name__ == "__main__":
    main()
