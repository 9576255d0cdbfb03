"""The commands `backup` and `restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli import output
from cli.connect import connect
from cli.doctor import EXIT_UNHEALTHY
from cli.options import options
from engine.errors import NOT_EMBEDDED, USAGE, RookeryError
from engine.plurals import counted

WAITING_SECONDS = 10.0
"""Interval between messages while a backup is verified."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(backup)
    app.command()(restore)


def backup(
    target: Annotated[
        str,
        typer.Argument(
            metavar="FILE_OR_DIRECTORY",
            help="New file, or a directory for a file with a new name. With a ClickHouse server: disk:DISK/PATH, "
            "s3:COLLECTION/PATH or file:PATH there.",
        ),
    ],
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify",
            help="Restore the backup to a temporary directory and run `doctor --deep` there. Not with a ClickHouse "
            "server.",
        ),
    ] = True,
) -> None:
    """Back up the data while rookery runs.

    The backup contains everything, including the keys that sign tokens. Only its owner can read a file. The exit code
    is 8 if the doctor found errors in the restored copy; the backup is kept.

    Example: [bold]rookery backup /backups[/]
    """
    from cli import backup_file, interrupts
    from engine.warehouse.server_backup import is_destination

    if is_destination(target):
        _back_up_server(target)
        return
    file = backup_file.new_file(Path(target))
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


def _back_up_server(destination: str) -> None:
    """Let a ClickHouse server back up the workspace to a destination there."""
    with connect() as connection, output.progress("backup") as update:
        result = connection.watched("/v0/backup", {"to": destination}, update)
    _show({"verified": False, **result}, f"backed up to {result['destination']}")


def restore(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="File that `rookery backup` wrote, or a destination on the ClickHouse server."
        ),
    ],
    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIRECTORY]", help="New data directory, such as .rookery/data. Not with a ClickHouse server."
        ),
    ] = None,
) -> None:
    """Restore a backup to a new data directory, or to a ClickHouse server that does not have the workspace.

    Checks the backup, and never overwrites anything.

    Example: [bold]rookery restore backup.tar .rookery/data[/]
    """
    from cli import backup_file, interrupts
    from engine.warehouse.server_backup import is_destination

    if is_destination(source):
        _restore_server(source, directory)
        return
    server = options.loaded().clickhouse_url
    if server is not None:
        raise RookeryError(
            NOT_EMBEDDED,
            "a file is restored to a data directory, but ROOKERY_CLICKHOUSE_URL is set",
            hint="unset it to restore the file, or name a destination on the ClickHouse server: docs/backup.md",
        )
    if directory is None:
        raise RookeryError(USAGE, "the new data directory is missing", hint="rookery restore SOURCE DIRECTORY")
    with interrupts.raised(), output.waiting("restoring"):
        description = backup_file.restored(Path(source), directory)
    _show({"directory": str(directory), **description}, f"restored to {directory}")
    if not options.json:
        output.say(f"next: rookery --data {directory} doctor --deep", "dim")


def _restore_server(source: str, directory: Path | None) -> None:
    """Restore the workspace of the settings to their ClickHouse server."""
    from cli import interrupts
    from engine.backup.restoring import restore
    from engine.warehouse.server_backup import Destination

    if directory is not None:
        raise RookeryError(USAGE, f"{directory} has no meaning for a backup of a ClickHouse server")
    settings = options.loaded()
    with interrupts.raised(), output.progress("restore") as update:
        result = restore(settings, Destination.of(source), update)
    _show(result, f"restored to workspace {settings.workspace}")
    if not options.json:
        output.say("next: rookery doctor --deep", "dim")


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
