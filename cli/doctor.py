"""The `doctor` command: what is wrong with the live workspace."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import output
from cli.connection import connect, options
from cli.permission import Allow
from engine.errors import USAGE, RookeryError

EXIT_UNHEALTHY = 8
"""Exit code when something is wrong."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(
    deep: Annotated[
        bool, typer.Option("--deep", help="Also compare every derived table with its source; reads all of them.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Deliver what copies and derived tables lack, before examining.")
    ] = False,
    allow: Allow = None,
) -> None:
    """Examine the live workspace. Exit code 8 when something is wrong; warnings alone do not count.

    A repair takes out what a table has and its source does not give only if the table is allowed by name.

    Example: [bold]rookery doctor --deep[/]
    """
    if allow and not repair:
        raise RookeryError(USAGE, "--allow-destructive needs --repair")
    with connect() as connection, output.progress("examining"):
        done = connection.json("POST", "/v0/doctor", json={"allow": allow or []})["repaired"] if repair else []
        found = connection.json("GET", "/v0/doctor", params={"deep": str(deep or repair).lower()})
    if options.json:
        output.as_json({**found, "repaired": done} if repair else found)
    else:
        for item in done:
            left = f"; not repaired: {item['not_repaired']}" if item["not_repaired"] else ""
            output.say(f"{item['table']}: {item['keys']} keys delivered{left}")
            for part in item["detached"]:
                output.say(f"  detached part {part['part']} {part['done']}: {part['why']}")
        for finding in found["findings"]:
            output.finding(finding)
        if not found["findings"]:
            output.say(f"healthy: {len(found['checks'])} checks found nothing", "green")
    if not found["healthy"]:
        raise typer.Exit(EXIT_UNHEALTHY)
