"""Servers in this process: for `serve` until it is stopped, and for one command while it runs.

Importing this module imports the engine, which takes almost a second. Commands for a running server avoid it.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType

import structlog
import uvicorn

from cli import output
from cli.connection import Wait, is_held, is_running
from cli.state_files import announce, announced, withdraw
from engine.control.tokens import admin_text
from engine.errors import NO_DATABASE, NO_SERVER, SETTING, RookeryError
from engine.observe import events, logs
from engine.observe.log_file import LogFile
from engine.plurals import counted
from engine.settings import Settings
from engine.version import version
from engine.web.app import create_app
from engine.web.connections import config
from engine.web.prompt_server import PromptServer
from engine.workspace.opening import has_workspace, open_workspace, table_count
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.server")
THREAD_SWITCH_SECONDS = 0.0005
"""How long the event loop may run before Python switches to a thread whose engine call has returned."""
SLOW_OPENING_TABLES = 1_000
"""With at least this many tables, opening takes long enough to print progress."""


def _log_file(settings: Settings) -> LogFile | None:
    return LogFile(settings.log_file, settings.log_file_bytes) if settings.log_file_bytes else None


@contextmanager
def local_server(settings: Settings, *, create: bool) -> Iterator[tuple[str, str]]:
    """Run a server on a free loopback port. Yields its URL and admin token.

    Raises RK6001 when the directory is held, and without `create` RK7007 when there is no workspace.
    """
    logs.configure("error", file=_log_file(settings), file_level=settings.log_level)
    if not create and not has_workspace(settings):
        where = settings.clickhouse_url or settings.data
        raise RookeryError(
            NO_DATABASE,
            f"{where} does not contain the workspace `{settings.workspace}`",
            hint="run the command in the project's directory, or set -C DIRECTORY, --data or ROOKERY_DATA; "
            "`rookery push` and `rookery serve` create a workspace",
        )
    # The requests of one command are not worth a line each.
    with serving(open_workspace(settings.model_copy(update={"access_log": False}))) as access:
        yield access


@contextmanager
def serving(workspace: Workspace) -> Iterator[tuple[str, str]]:
    """Serve a workspace on a free loopback port, and close it at the end. Yields its URL and admin token."""
    try:
        token = admin_text(workspace, workspace.settings.admin_file)
    except BaseException:
        workspace.close()
        raise
    listening = socket.create_server(("127.0.0.1", 0))
    server = PromptServer(config(create_app(workspace), workspace.settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RookeryError(NO_SERVER, "the embedded server did not start")
            time.sleep(0.005)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", token
    finally:
        server.stop()
        thread.join(timeout=30)
        logs.flush()


def serve(settings: Settings, *, was_killed: bool = False) -> None:
    """Serve until stopped. Running requests finish after the signal to stop.

    `was_killed` says that the directory's last server did not shut down properly, which is logged.
    """
    logs.configure(settings.log_level, as_json=settings.log_json, file=_log_file(settings))
    listening = _listen(settings)
    tables = table_count(settings.data) if settings.clickhouse_url is None else 0
    try:
        with output.waiting(f"opening {counted(tables, 'table')}") if tables > SLOW_OPENING_TABLES else nullcontext():
            workspace = _opened(settings)
    except BaseException:
        listening.close()
        withdraw(settings)
        raise
    sys.setswitchinterval(THREAD_SWITCH_SECONDS)
    host, port = listening.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if was_killed:
        log.warning("the last server was killed; what it had begun is completed now")
    events.note("started", version=version(), url=url, workspace=workspace.name, pid=os.getpid())
    try:
        admin_text(workspace, settings.admin_file)
        announce(settings, url)
    except BaseException:
        workspace.close()
        withdraw(settings)
        raise
    output.say(f"rookery serves workspace {workspace.name} at {url}", "green")
    if settings.admin_token is None:
        output.say(f"the admin token is in {settings.admin_file}")
    # After its own shutdown the server raises the signal again. The default handler would then kill the process
    # before the workspace is closed.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    app = create_app(workspace)
    # A garbage collection over all imported objects takes 30 ms, in which no request is answered. Frozen objects are
    # not collected.
    gc.collect()
    gc.freeze()
    try:
        _Server(config(app, settings), settings.stop_seconds).run(sockets=[listening])
    finally:
        events.note("stopped")
        withdraw(settings)


def _opened(settings: Settings) -> Workspace:
    """Open the workspace, waiting for a command that holds the directory. Raises RK6001 if a server holds it."""
    wait = Wait(settings)
    while True:
        try:
            return open_workspace(settings)
        except RookeryError as exc:
            if not is_held(exc):
                raise
            running = announced(settings)
            if running is not None and running.here and running.url and is_running(running.url):
                hint = f"a server runs at {running.url}; commands in this directory use it"
                raise RookeryError(exc.code, exc.message, hint=hint, detail=exc.detail) from exc
            if not wait.retry(exc.message):
                raise


class _Server(PromptServer):
    """Ends the process when its shutdown takes too long: a thread that waits for the engine cannot be stopped."""

    def __init__(self, config: uvicorn.Config, stop_seconds: float) -> None:
        super().__init__(config)
        self._stop_seconds = stop_seconds
        self._kill_timer: threading.Timer | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._kill_timer is None:
            # The same timeout applies to running requests and to closing the workspace afterwards.
            self._kill_timer = threading.Timer(2 * self._stop_seconds, _end_process)
            self._kill_timer.daemon = True
            self._kill_timer.start()
        super().handle_exit(sig, frame)


def _end_process() -> None:
    """End immediately, as after a kill signal. Stored data does not depend on an orderly shutdown."""
    sys.stderr.write("rookery: queries did not end in time, so the process ends without waiting for them\n")
    sys.stderr.flush()
    os._exit(1)


def _listen(settings: Settings) -> socket.socket:
    """A listening socket. Raises RK7001 if the address cannot be used."""
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        return socket.create_server((settings.host, settings.port), family=family, backlog=1024)
    except OSError as exc:
        # Errors of name resolution have negative numbers.
        bad_host = (exc.errno or 0) < 0 or exc.errno == errno.EADDRNOTAVAIL
        hint = (
            "--host must be an address of this machine, or 0.0.0.0 for all" if bad_host else "--port 0: a free port"
        )
        message = f"cannot listen on {settings.host}:{settings.port}: {exc.strerror}"
        raise RookeryError(SETTING, message, hint=hint) from exc
