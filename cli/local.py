"""A server of the command line's own over the embedded directory, for the length of one command."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from engine import observe
from engine.control.tokens import admin_text
from engine.errors import NO_SERVER, RookeryError
from engine.plan.open import open_workspace
from engine.settings import Settings
from engine.web.app import create_app


@contextmanager
def local_server(settings: Settings, admin_file: Path) -> Iterator[tuple[str, str]]:
    """A server on a free loopback port; yields its URL and admin token. Raises RK6001 when the directory is held."""
    observe.configure("error")
    workspace = open_workspace(settings)
    try:
        token = admin_text(workspace, admin_file)
    except BaseException:
        workspace.close()
        raise
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(config(create_app(workspace)))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RookeryError(NO_SERVER, "the embedded server did not start")
            time.sleep(0.005)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", token
    finally:
        server.should_exit = True
        thread.join(timeout=30)


def config(app: Any) -> uvicorn.Config:
    """How applications are served: one worker, no access log of uvicorn's own (it shows query strings)."""
    return uvicorn.Config(
        app,
        access_log=False,
        log_level="warning",
        lifespan="on",
        timeout_graceful_shutdown=10,
        server_header=False,
        timeout_keep_alive=30,
    )
