"""`rookery` without its start-up time: one process imports the program and forks for every command and server.

Each still is a process of its own, with its own arguments, environment, directory and standard streams, and runs
`cli.main.main()`; its engine is loaded and opened after the fork. Only the imports are saved, which take most of a
second of processor time. Tests of the start itself, and of terminals, start `python -m cli.main`.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import os
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60
_NUMBER = struct.Struct(">i")

COMMAND = """#!{python} -IS
import _socket, os, sys
here = _socket.socket(_socket.AF_UNIX)
here.connect({address!r})
words = [str(len(sys.argv) - 1), *sys.argv[1:], os.getcwd(), *(f"{{k}}={{v}}" for k, v in os.environ.items())]
body = os.fsencode("\\0".join(words))
streams = b"".join(n.to_bytes(4, sys.byteorder) for n in (0, 1, 2))
here.sendmsg([len(body).to_bytes(4, "big")], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)])
here.sendall(body)
answer = here.recv(8, _socket.MSG_WAITALL)
code = int.from_bytes(answer[4:], "big", signed=True) if len(answer) == 8 else 99
sys.exit(code if code >= 0 else 128 - code)
"""
# The command above imports nothing that takes long: it is started hundreds of times.


class Forked:
    """A forked `rookery`, with the part of `subprocess.Popen` that tests use."""

    def __init__(
        self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str], streams: tuple[int, int, int]
    ) -> None:
        self.returncode: int | None = None
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(forker() / "socket"))
        words = [str(len(arguments)), *arguments, str(cwd), *(f"{k}={v}" for k, v in env.items())]
        body = os.fsencode("\0".join(words))
        socket.send_fds(self._socket, [len(body).to_bytes(4, "big")], streams)
        self._socket.sendall(body)
        (self.pid,) = _NUMBER.unpack(self._socket.recv(4, socket.MSG_WAITALL))

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, or the negative number of the signal that ended it. Raises TimeoutExpired."""
        if self.returncode is None:
            self._socket.settimeout(timeout)
            try:
                answer = self._socket.recv(4, socket.MSG_WAITALL)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired("rookery", timeout or 0) from None
            assert len(answer) == 4, "the forking process has ended"
            (self.returncode,) = _NUMBER.unpack(answer)
            self._socket.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@cache
def forker() -> Path:
    """A directory for PATH with a `rookery` that starts at once; the forking process ends with this one."""
    directory = Path(tempfile.mkdtemp(prefix="rookery-tests-"))
    address = directory / "socket"
    command = directory / "rookery"
    command.write_text(COMMAND.format(python=sys.executable, address=str(address)))
    command.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.forking", str(address)],
        env={k: v for k, v in os.environ.items() if not k.startswith("ROOKERY_")} | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    atexit.register(_end, process)
    deadline = time.monotonic() + START_SECONDS
    while not address.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError("the forking process did not start")
        time.sleep(0.02)
    return directory


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    process.wait()


class _Later(ModuleType):
    """The engine's library, loaded when it is first used: loading starts threads, which no fork would have."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        del sys.modules[self.__name__]
        self.__dict__.update(vars(importlib.import_module(self.__name__)))
        return getattr(self, name)


def load_engine_later() -> None:
    """Let the program be imported without the engine, so that each fork can load its own."""
    sys.modules["chdb"] = _Later("chdb")


def _imported() -> None:
    load_engine_later()
    for name in ("app", "connection", "embedded_server", "files", "offline_check", "project_files", "upload_source"):
        importlib.import_module(f"cli.{name}")
    import rich.table  # noqa: F401

    from cli.app import run

    # A command that finds no server, so that everything it needs is imported as well.
    sys.argv = ["rookery", "--url", "http://127.0.0.1:1", "token", "ls"]
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere), suppress(SystemExit):
        run()
    gc.collect()
    gc.freeze()  # the collector would touch, and so copy, every page that parent and children share


def _serve(address: str) -> None:
    """Fork for each connection; tell it the process's number and, in the end, its exit code."""
    _imported()
    waker, woken = socket.socketpair()
    for end in (waker, woken):
        end.setblocking(False)
    signal.set_wakeup_fd(woken.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    listening = socket.socket(socket.AF_UNIX)
    # Parents wait for the file, so it appears only when connections are accepted.
    unready = Path(f"{address}.unready")
    listening.bind(str(unready))
    listening.listen(100)
    unready.rename(address)
    selector = selectors.DefaultSelector()
    for source in (listening, waker, sys.stdin):
        selector.register(source, selectors.EVENT_READ)
    running: dict[int, socket.socket] = {}
    while True:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:
                for pid in running:
                    os.kill(pid, signal.SIGKILL)
                shutil.rmtree(Path(address).parent)
                return
            if key.fileobj is waker:
                with suppress(BlockingIOError):
                    waker.recv(1000)
                _reap(running)
                continue
            connection, _ = listening.accept()
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                selector.close()
                for inherited in (listening, waker, woken, *running.values()):
                    inherited.close()
                _run(connection)
            running[pid] = connection
            with suppress(OSError):
                connection.sendall(_NUMBER.pack(pid))


def _reap(running: dict[int, socket.socket]) -> None:
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            connection = running.pop(ended[0])
            with suppress(OSError):
                connection.sendall(_NUMBER.pack(os.waitstatus_to_exitcode(ended[1])))
            connection.close()


def _run(connection: socket.socket) -> NoReturn:
    """What the command line does in a process that is started for it."""
    head, fds, _, _ = socket.recv_fds(connection, 4, 3)
    size = int.from_bytes(head, "big")
    body = connection.recv(size, socket.MSG_WAITALL)
    connection.close()
    count, *words = os.fsdecode(body).split("\0")
    arguments, directory, variables = words[: int(count)], words[int(count)], words[int(count) + 1 :]
    environment = dict(v.split("=", 1) for v in variables)
    for expected, given in enumerate(fds):
        os.dup2(given, expected)
        os.close(given)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.argv = ["rookery", *arguments]
    import cli.main

    try:
        cli.main.main()
    except SystemExit as exc:
        if "serve" in arguments or not isinstance(exc.code, int | None):
            raise
        code = exc.code or 0
    else:
        code = 0
    # Taking the interpreter apart would take longer than most commands.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 255)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        _serve(sys.argv[1])
