"""The command `log`: shows the log files of this directory's server, even while it is down."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.options import options


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(log)


def log(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for further lines, until Ctrl-C.")] = False,
    lines: Annotated[
        int | None,
        typer.Option("--lines", "-n", min=0, help="Show the last lines only. Default: 100, or all with --since."),
    ] = None,
    level: Annotated[str, typer.Option(help="Lowest level to show: debug, info, warning or error.")] = "info",
    since: Annotated[
        str | None, typer.Option(help="Show lines after this time: 15m, 2h, 3d, or a time such as 2026-11-29T10:00.")
    ] = None,
) -> None:
    """Show the server's log, from the files that `rookery serve` writes. It need not be running.

    Example: [bold]rookery log --level warning --since 2h[/]
    """
    from cli.log_reader import Selection, show

    show(options.loaded(), Selection.of(level, since, lines), follow=follow, json_lines=options.json)
