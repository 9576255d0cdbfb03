"""Commands that run the server: serve and demo."""

from __future__ import annotations

import signal
import socket
import sys
from contextlib import suppress
from typing import Annotated

import typer
import uvicorn

from cli import terminal
from cli.connection import admin_file, announce, config, options, server_file
from engine import observe
from engine.control.tokens import admin_text
from engine.errors import SETTING, RookeryError
from engine.plan.open import open_workspace
from engine.settings import Settings
from engine.web.app import create_app


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(serve)
    app.command()(demo)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 picks a free one.")] = None,
) -> None:
    """Run the server until it is stopped; running requests are finished first.

    Example: [bold]rookery serve --port 7181[/]
    """
    settings = options.loaded()
    changed = {k: v for k, v in (("host", host), ("port", port)) if v is not None}
    settings = settings.model_copy(update=changed)
    observe.configure(settings.log_level, as_json=settings.log_json)
    listening = _listen(settings)
    try:
        workspace = open_workspace(settings)
    except BaseException:
        listening.close()
        raise
    url = f"http://{settings.host}:{listening.getsockname()[1]}"
    try:
        admin_text(workspace, admin_file(settings))
        if settings.clickhouse_url is None:
            announce(settings, url)
    except BaseException:
        workspace.close()
        raise
    terminal.say(f"rookery serves workspace {workspace.name} at {url}", "green")
    if settings.admin_token is None:
        terminal.say(f"the admin token is in {admin_file(settings)}")
    # The server hands the signal on after its orderly end; by default that would kill the process before ours.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    try:
        uvicorn.Server(config(create_app(workspace))).run(sockets=[listening])
    finally:
        with suppress(OSError):
            server_file(settings).unlink()


def _listen(settings: Settings) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        return socket.create_server((settings.host, settings.port), family=family, backlog=1024)
    except OSError as exc:
        raise RookeryError(
            SETTING,
            f"cannot listen on {settings.host}:{settings.port}: {exc.strerror}",
            hint="--port 0 picks a free one",
        ) from exc


def demo() -> None:
    """Run the main job on the example project, in a directory of its own, and say what happened.

    Example: [bold]rookery demo[/]
    """
    from cli.demo import run

    run()
