"""The `doctor` command: what is wrong with the live workspace."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import terminal
from cli.connection import connect, options

SICK = 8
"""Exit code when something is wrong."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(
    deep: Annotated[
        bool, typer.Option("--deep", help="Also compare every tenant's rows with landing; reads all of them.")
    ] = False,
) -> None:
    """Examine the live workspace. Exit code 8 when something is wrong; warnings alone do not count.

    Example: [bold]rookery doctor --deep[/]
    """
    with connect() as connection, terminal.progress("examining"):
        found = connection.json("GET", "/v0/doctor", params={"deep": str(deep).lower()})
    if options.json:
        terminal.as_json(found)
    else:
        for finding in found["findings"]:
            terminal.finding(finding)
        if not found["findings"]:
            terminal.say(f"healthy: {len(found['checks'])} checks found nothing", "green")
    if not found["healthy"]:
        raise typer.Exit(SICK)
