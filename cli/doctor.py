"""The `doctor` command, which examines the live workspace."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import output
from cli.connect import connect
from cli.options import options
from cli.permission import Allow
from engine.errors import USAGE, RookeryError
from engine.plurals import counted

EXIT_UNHEALTHY = 8
"""Exit code when an error was found."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(
    deep: Annotated[
        bool, typer.Option("--deep", help="Also compare every derived table with its source. Reads all rows.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="First deliver the rows that copies and derived tables lack.")
    ] = False,
    allow: Allow = None,
) -> None:
    """Examine the live workspace. The exit code is 8 if there are errors, and 0 if there are only warnings.

    A repair removes excess rows, which the source does not explain, from tables named by --allow-destructive.

    Example: [bold]rookery doctor --deep[/]
    """
    if allow and not repair:
        raise RookeryError(USAGE, "--allow-destructive requires --repair")
    with connect() as connection, output.progress("examining") as update:
        repaired = connection.watched("/v0/doctor", {"allow": allow or []}, update)["repaired"] if repair else []
        deep_too = str(deep or repair).lower()
        report = connection.watch("GET", "/v0/doctor", update, params={"deep": deep_too})
    if options.json:
        output.as_json({**report, "repaired": repaired} if repair else report)
    else:
        for item in repaired:
            remaining = f"; not repaired: {item['not_repaired']}" if item["not_repaired"] else ""
            output.say(f"{item['table']}: {counted(item['keys'], 'key')} delivered{remaining}")
            for part in item["detached"]:
                output.say(f"  detached part {part['part']} {part['done']}: {part['why']}")
        for finding in report["findings"]:
            output.finding(finding)
        if not report["findings"]:
            output.say(f"healthy: {len(report['checks'])} checks found nothing", "green")
    if not report["healthy"]:
        raise typer.Exit(EXIT_UNHEALTHY)
