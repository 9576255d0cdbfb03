"""The commands `backup` and `restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli import output
from cli.connect import connect
from cli.doctor import EXIT_UNHEALTHY
from cli.options import options
from engine.errors import NOT_EMBEDDED, RookeryError
from engine.plurals import counted

WAITING_SECONDS = 10.0
"""Interval between messages while a backup is verified."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(backup)
    app.command()(restore)


def backup(
    target: Annotated[
        Path, typer.Argument(metavar="FILE_OR_DIRECTORY", help="New file, or a directory for a file with a new name.")
    ],
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify", help="Restore the backup to a temporary directory and run `doctor --deep` there."
        ),
    ] = True,
) -> None:
    """Back up the embedded engine's data while rookery runs.

    The file contains everything, including the keys that sign tokens. Only its owner can read it. The exit code is 8
    if the doctor found errors in the restored copy; the backup is kept.

    Example: [bold]rookery backup /backups[/]
    """
    from cli import backup_file, interrupts

    file = backup_file.new_file(target)
    with interrupts.raised(), backup_file.written(file) as partial:
        with connect() as connection, output.waiting("backing up"):
            connection.download("POST", "/v0/backup", partial)
        result: dict[str, Any] = {"file": str(file), "verified": verify, **backup_file.described(partial)}
        if verify:
            with output.waiting("restoring the backup to verify it", WAITING_SECONDS):
                result["findings"] = backup_file.verify(partial, result)
    _show(result, f"backed up to {file}")
    if any(f["level"] == "error" for f in result.get("findings", ())):
        raise typer.Exit(EXIT_UNHEALTHY)


def restore(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="File that `rookery backup` wrote.")],
    directory: Annotated[
        Path, typer.Argument(metavar="DIRECTORY", help="New data directory, such as .rookery/data.")
    ],
) -> None:
    """Restore a backup to a new data directory. Checks every file, and never overwrites anything.

    Example: [bold]rookery restore backup.tar .rookery/data[/]
    """
    from cli import backup_file, interrupts

    server = options.loaded().clickhouse_url
    if server is not None:
        raise RookeryError(
            NOT_EMBEDDED,
            f"a backup is restored to a data directory, but ROOKERY_CLICKHOUSE_URL names {server}",
            hint="unset ROOKERY_CLICKHOUSE_URL to restore it; for a ClickHouse server see docs/backup.md",
        )
    with interrupts.raised(), output.waiting("restoring"):
        description = backup_file.restored(source, directory)
    _show({"directory": str(directory), **description}, f"restored to {directory}")
    if not options.json:
        output.say(f"next: rookery --data {directory} doctor --deep", "dim")


def _show(result: dict[str, Any], done: str) -> None:
    """Print the outcome of a command."""
    if options.json:
        output.as_json(result)
        return
    for finding in result.get("findings", ()):
        output.finding(finding)
    rows = sum(t["rows"] for t in result["tables"].values())
    size = f"{counted(len(result['tables']), 'table')} with {counted(rows, 'row')}"
    verified = ", verified by restoring it" if result.get("verified") else ""
    output.say(f"{size} {done}{verified}", "green")
