"""The commands `serve` and `demo`."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import interrupts
from cli.options import options


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(serve)
    app.command()(demo)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 for a free one.")] = None,
) -> None:
    """Run the server until it is stopped. On a signal to stop, it finishes running requests first.

    Example: [bold]rookery serve --port 7181[/]
    """
    from cli.state_files import announce_start, withdraw

    changed = {k: v for k, v in (("host", host), ("port", port)) if v is not None}
    settings = options.loaded().model_copy(update=changed)
    # Importing the engine takes almost a second. Commands that start in the meantime wait for this server.
    was_killed = announce_start(settings)
    try:
        from cli.embedded_server import serve as run

        with interrupts.raised():
            run(settings, was_killed=was_killed)
    finally:
        withdraw(settings)


def demo() -> None:
    """Show the main features on the example project, in a workspace without other resources.

    Example: [bold]rookery demo[/]
    """
    from cli.demo import run

    run()
