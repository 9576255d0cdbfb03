"""Commands that run the server: serve and demo."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.connection import options


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(serve)
    app.command()(demo)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = None,
) -> None:
    """Run the server until it is stopped; running requests are finished first.

    Example: [bold]rookery serve --port 7181[/]
    """
    from cli.process import serve as run

    changed = {k: v for k, v in (("host", host), ("port", port)) if v is not None}
    run(options.loaded().model_copy(update=changed))


def demo() -> None:
    """Run the main job on the example project, in a directory of its own, and say what happened.

    Example: [bold]rookery demo[/]
    """
    from cli.demo import run

    run()
