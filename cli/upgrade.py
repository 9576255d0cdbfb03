"""The command `upgrade`, which migrates a data directory of an older program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli import output
from cli.connect import connect
from cli.doctor import EXIT_UNHEALTHY
from cli.options import options
from engine.plurals import counted


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(upgrade)


def upgrade(
    backup: Annotated[
        bool,
        typer.Option(
            "--backup/--no-backup", help="First write a backup and try the migration on a copy restored from it."
        ),
    ] = True,
    backup_to: Annotated[
        str | None,
        typer.Option(
            "--backup-to",
            metavar="FILE_OR_DIRECTORY",
            help="Where to write the backup; by default next to the data. With a ClickHouse server: the backup that "
            "the older version has made.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be migrated.")] = False,
) -> None:
    """Migrate the workspace of an older rookery, after a backup, and examine the result.

    The server must be stopped. The exit code is 8 if the doctor finds errors afterwards.

    Example: [bold]rookery upgrade[/]
    """
    from cli import interrupts, upgrading

    with interrupts.raised():
        settings = upgrading.existing(options.loaded())
        needed = upgrading.needed(settings)
        result: dict[str, Any] = upgrading.described(settings, needed)
        if not options.json:
            _announce(result)
        if needed.is_needed and not dry_run:
            if backup and settings.clickhouse_url is not None:
                result["backup"] = upgrading.compared(settings, backup_to)
            elif backup:
                target = Path(backup_to) if backup_to is not None else None
                with output.waiting("backing up, and migrating a copy", 10.0):
                    result["backup"] = str(upgrading.back_up(settings, target))
            with connect() as connection, output.waiting("migrating", 10.0):
                result["findings"] = connection.json("GET", "/v0/doctor", params={"deep": "true"})["findings"]
    _show(result)
    if any(f["level"] == "error" for f in result.get("findings", ())):
        raise typer.Exit(EXIT_UNHEALTHY)


def _announce(result: dict[str, Any]) -> None:
    """Print the versions and the migrations."""
    output.say(
        f"{result.get('directory', 'the workspace')} has layout {result['layout']}; "
        f"this rookery writes layout {result['current']}"
    )
    for step in result["steps"]:
        output.say(f"  to migrate: {step}")


def _show(result: dict[str, Any]) -> None:
    """Print the outcome, and the way back."""
    if options.json:
        output.as_json(result)
        return
    if not result["needed"]:
        output.say("nothing to migrate", "green")
        return
    if "findings" not in result:
        return
    for finding in result["findings"]:
        output.finding(finding)
    output.say(f"migrated to layout {result['current']}", "green")
    backup = result.get("backup")
    if isinstance(backup, dict):
        since = f"of {backup['created_at']}, {counted(backup['rows_since'], 'row')} before the upgrade"
        output.say(f"the backup is {backup['destination']}, {since}")
        output.say("to go back: drop the workspace's databases, then rookery restore with either version", "dim")
    elif backup is not None:
        output.say(f"the backup is {backup}")
        output.say("to go back: rookery restore BACKUP NEW_DIRECTORY, then start the older rookery with it", "dim")
