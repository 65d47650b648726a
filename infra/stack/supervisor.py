"""The supervisor of a stack: one supervisord (pip package) per home, spoken to over its unix socket.

It starts nothing on its own; the stack starts program after program, each when what it needs is healthy. Programs can
be added while it runs.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import xmlrpc.client
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from infra.errors import StackError
from infra.stack import child
from infra.stack.files import write_atomic
from infra.stack.layout import Layout
from infra.stack.programs import Program

HOME_MARK = "LIVERANK_STACK_HOME"
"""Variable in the environment of every process of a stack: its home."""
BACKUPS = 3
START_S, STOP_S, YOUNG_S = 20.0, 90.0, 1.5
RUNNING, STARTING, BACKOFF, FATAL = "RUNNING", "STARTING", "BACKOFF", "FATAL"
ALIVE = (RUNNING, STARTING, BACKOFF)


@dataclass(frozen=True, kw_only=True)
class ProcessState:
    """What the supervisor says about a program."""

    name: str
    state: str
    pid: int
    up_s: int
    log: Path
    reason: str


class Supervisor:
    """Start, ask and stop the processes of one home.

    Not safe for concurrent use by two processes: the stack holds a lock while it changes anything.

    Parameters
    ----------
    layout : Layout
        Where its files lie.
    log_max_mb : int
        Size at which a log file is rotated.
    tied : bool
        Whether a supervisor started here ends when this process does, however it ends.
    """

    def __init__(self, layout: Layout, *, log_max_mb: int, tied: bool = False) -> None:
        self._layout = layout
        self._tied = tied
        self._log_max_mb = log_max_mb
        self._config = layout.run / "supervisord.conf"
        self._programs = layout.run / "programs"
        self._pid_file = layout.run / "supervisord.pid"

    def pid(self) -> int | None:
        """Process id of the running supervisor of this home, or None."""
        try:
            process = psutil.Process(int(self._pid_file.read_text()))
            ours = str(self._config) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
        except (FileNotFoundError, ValueError, psutil.Error):
            return None
        return process.pid if ours else None

    def add(self, programs: Sequence[Program]) -> None:
        """Tell the supervisor about programs, starting it if need be; starts no program.

        A program that it knows already and that has changed is stopped and replaced.
        """
        if not self._settled():
            for path in self._programs.glob("*.conf"):
                path.unlink()
            self._write(programs)
            self._spawn()
            return
        self._write(programs)
        with self._rpc() as rpc:
            added, changed, _removed = rpc.reloadConfig()[0]
            for name in changed:
                _quiet(rpc.stopProcess, name)
                rpc.removeProcessGroup(name)
            for name in [*added, *changed]:
                rpc.addProcessGroup(name)

    def remove(self, names: Sequence[str]) -> None:
        """Stop programs, the last of the list first, and forget them."""
        for name in reversed(names):
            self.stop_program(name)
            (self._programs / f"{name}.conf").unlink(missing_ok=True)
            with self._rpc() as rpc:
                rpc.removeProcessGroup(name)

    def alive(self, name: str) -> bool:
        """Whether the program runs or is about to."""
        return self.state(name).state in ALIVE

    def start_program(self, name: str) -> None:
        """Start a program that is not alive; no-op if it is. Does not wait for its health."""
        if self.alive(name):
            return
        with self._rpc() as rpc:
            rpc.startProcess(name, False)

    def stop_program(self, name: str) -> None:
        """SIGTERM, then SIGKILL after the program's patience; returns when it has ended."""
        with self._rpc() as rpc:
            _quiet(rpc.stopProcess, name)

    def states(self) -> tuple[ProcessState, ...]:
        """Every program the supervisor knows; empty where none runs."""
        if not self._settled():
            return ()
        with self._rpc() as rpc:
            found = rpc.getAllProcessInfo()
        return tuple(
            ProcessState(
                name=one["name"],
                state=one["statename"],
                pid=one["pid"],
                up_s=max(0, one["now"] - one["start"]) if one["pid"] else 0,
                log=Path(one["stdout_logfile"]),
                reason=one["spawnerr"] or one["description"],
            )
            for one in found
        )

    def state(self, name: str) -> ProcessState:
        """State of one program."""
        for one in self.states():
            if one.name == name:
                return one
        raise StackError(f"the supervisor of {self._layout.home} does not know {name!r}; run liverank down, then up.")

    def stop(self) -> int:
        """Stop everything, last started first, and leave no process of this home behind.

        Returns
        -------
        int
            How many processes were ended, the supervisor not counted.
        """
        pid = self.pid()
        n_ended = _n_children(pid)
        if pid is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._stop_daemon(psutil.Process(pid))
        left = self.orphans()
        n_ended += len(left)
        for sign, patience_s in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 5.0)):
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(sign)
            left = _wait_gone(left, patience_s)
        for path in (self._pid_file, self._layout.socket):
            path.unlink(missing_ok=True)
        return n_ended

    def _stop_daemon(self, daemon: psutil.Process) -> None:
        """SIGTERM to the supervisor, which stops its children in order.

        A child that it forked a moment ago can lose its own SIGTERM between fork and exec; it gets another one.
        """
        daemon.terminate()
        if _wait_gone([daemon], YOUNG_S):
            now_s = time.time()
            for child in daemon.children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if now_s - child.create_time() < 2 * YOUNG_S:
                        child.terminate()
        _wait_gone([daemon], STOP_S)

    def orphans(self) -> list[psutil.Process]:
        """Processes of this home that live although its supervisor does not."""
        if self.pid() is not None:
            return []
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(HOME_MARK) == str(self._layout.home) and process.pid != os.getpid():
                    found.append(process)
        return found

    def _spawn(self) -> None:
        write_atomic(self._config, self._header(), mode=0o600)
        self._layout.socket.unlink(missing_ok=True)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("LIVERANK_")}
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self._config)]
        if self._tied:
            command = [sys.executable, "-S", "-E", str(Path(child.__file__)), *command, "--nodaemon"]
        with (self._layout.logs / "supervisord.start").open("w") as output:
            started = subprocess.Popen(
                command,
                env=clean,
                cwd=self._layout.home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while not self._answers():
            if started.poll() not in (None, 0) or time.monotonic() > deadline:
                said = (self._layout.logs / "supervisord.start").read_text().strip()
                raise StackError(f"supervisord did not start: {said or 'no answer'}; see {self._layout.logs}.")
            time.sleep(0.02)
        # It has put itself into the background and this returns at once, or it is tied and is reaped when it ends.
        threading.Thread(target=started.wait, name="supervisord", daemon=True).start()

    def _settled(self) -> bool:
        """Whether the supervisor is up; one that is about to end is waited for.

        Raises
        ------
        StackError
            It lives, but does not answer.
        """
        deadline = time.monotonic() + START_S
        while self.pid() is not None:
            if self._answers():
                return True
            if time.monotonic() > deadline:
                raise StackError(f"supervisord does not answer on {self._layout.socket}; run liverank down.")
            time.sleep(0.05)
        return False

    def _answers(self) -> bool:
        if self.pid() is None:
            return False
        try:
            with self._rpc() as rpc:
                return bool(rpc.getState()["statename"] == "RUNNING")
        except (OSError, xmlrpc.client.Error):
            return False

    @contextlib.contextmanager
    def _rpc(self) -> Iterator[Any]:
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(None, None, f"unix://{self._layout.socket}")
        proxy = xmlrpc.client.ServerProxy("http://localhost", transport=transport)
        try:
            yield proxy.supervisor
        except xmlrpc.client.Fault as fault:
            raise StackError(f"supervisord refused: {fault.faultString}") from fault
        except OSError as error:
            raise StackError(
                f"supervisord does not answer on {self._layout.socket}: {error}; run liverank down."
            ) from error
        finally:
            transport.close()

    def _write(self, programs: Sequence[Program]) -> None:
        self._programs.mkdir(exist_ok=True)
        for program in programs:
            write_atomic(self._programs / f"{program.name}.conf", self._section(program), mode=0o600)

    def _header(self) -> str:
        return (
            _ini("unix_http_server", {"file": str(self._layout.socket), "chmod": "0700"})
            + _ini(
                "supervisord",
                {
                    "logfile": str(self._layout.logs / "supervisord.log"),
                    "logfile_maxbytes": f"{self._log_max_mb}MB",
                    "logfile_backups": str(BACKUPS),
                    "loglevel": "info",
                    "pidfile": str(self._pid_file),
                    "nodaemon": "false",
                    "minfds": "1024",
                    "directory": str(self._layout.home),
                },
            )
            + _ini(
                "rpcinterface:supervisor",
                {"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"},
            )
            + _ini("include", {"files": str(self._programs / "*.conf")})
        )

    def _section(self, program: Program) -> str:
        command = (sys.executable, "-S", "-E", str(Path(child.__file__)), *program.command)
        return _ini(
            f"program:{program.name}",
            {
                "command": shlex.join(command),
                "directory": str(program.directory),
                "environment": _environment(
                    {**program.environment, HOME_MARK: str(self._layout.home), "PYTHONUNBUFFERED": "1"}
                ),
                "autostart": "false",
                "autorestart": "true" if program.restart else "false",
                "startsecs": "1",
                "startretries": "3",
                "priority": str(program.order),
                "stopsignal": "TERM",
                "stopwaitsecs": str(program.stop_wait_s),
                "stopasgroup": "true",
                "killasgroup": "true",
                "redirect_stderr": "true",
                "stdout_logfile": str(self._layout.logs / f"{program.name}.log"),
                "stdout_logfile_maxbytes": f"{self._log_max_mb}MB",
                "stdout_logfile_backups": str(BACKUPS),
            },
        )


def _n_children(pid: int | None) -> int:
    with contextlib.suppress(psutil.NoSuchProcess):
        return len(psutil.Process(pid).children()) if pid is not None else 0
    return 0


def _ini(section: str, values: Mapping[str, str]) -> str:
    """One section; supervisord expands `%`, so a literal one is doubled."""
    return f"[{section}]\n" + "".join(f"{key}={value.replace('%', '%%')}\n" for key, value in values.items()) + "\n"


def _environment(values: Mapping[str, str]) -> str:
    """`A="x",B='{"y": 1}'`: supervisord knows no escapes, so the quote is one that the value does not hold."""
    parts = []
    for name, value in values.items():
        quote = next((one for one in "\"'" if one not in value), "")
        if not quote or "\n" in value or value != value.strip("\"'"):
            raise StackError(f"{name} holds quotes or a line break that cannot be passed to a process; take them out.")
        parts.append(f"{name}={quote}{value}{quote}")
    return ",".join(parts)


def _quiet(call: Callable[[str], object], name: str) -> None:
    """Stop a program that may have stopped already."""
    with contextlib.suppress(xmlrpc.client.Fault):
        call(name)


def _wait_gone(processes: Sequence[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Processes that still live after the time; a zombie that somebody else must reap is gone."""
    deadline = time.monotonic() + timeout_s
    left = list(processes)
    while left:
        left = [one for one in left if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.02)
    return left
