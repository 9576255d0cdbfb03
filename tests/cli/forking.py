"""`rookery` without its start-up time: one process imports the command line and forks for every command.

Every command still is a process of its own, with its own arguments, environment, directory and standard streams, and
runs `cli.main.main()`. Only the half second of imports is saved, so that scripts can be run by the dozen.
"""

from __future__ import annotations

import array
import gc
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

CLIENT = """#!{python} -IS
import json, os, socket, sys
here = socket.socket(socket.AF_UNIX)
here.connect({address!r})
body = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(here, [len(body).to_bytes(4, "big")], [0, 1, 2])
here.sendall(body)
answer = here.recv(1)
sys.exit(answer[0] if answer else 99)
"""


@contextmanager
def rookery_on_path(directory: Path) -> Iterator[Path]:
    """A directory with a `rookery` command for PATH, for as long as the forking process lives."""
    directory.mkdir(parents=True, exist_ok=True)
    address = directory / "socket"
    command = directory / "rookery"
    command.write_text(CLIENT.format(python=sys.executable, address=str(address)))
    command.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, __file__, str(address)], env=environment, cwd=ROOT)
    try:
        deadline = time.monotonic() + 30
        while not address.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError("the forking process did not start")
            time.sleep(0.02)
        yield directory
    finally:
        process.kill()
        process.wait()


def _serve(address: str) -> None:
    import cli.main

    # One command that reaches for a server, in vain, so that everything it needs is imported before the fork.
    sys.argv = ["rookery", "--url", "http://127.0.0.1:1", "token", "ls"]
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere), suppress(SystemExit):
        cli.main.main()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.freeze()  # the collector would touch, and so copy, every page that parent and children share
    gc.disable()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen(100)
    while True:
        connection, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            _command(connection, cli.main.main)
        connection.close()


def _command(connection: socket.socket, main: object) -> None:
    code = 98
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        head, fds, _, _ = socket.recv_fds(connection, 4, 3)
        (size,) = struct.unpack(">I", head)
        body = bytearray()
        while len(body) < size:
            body += connection.recv(size - len(body))
        arguments, directory, environment = json.loads(bytes(body))
        for wanted, given in enumerate(array.array("i", fds)):
            os.dup2(given, wanted)
            os.close(given)
        os.chdir(directory)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["rookery", *arguments]
        assert callable(main)
        main()
        code = 0
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else 1 if exc.code else 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.sendall(bytes([code & 255]))
        os._exit(0)


if __name__ == "__main__":
    _serve(sys.argv[1])
