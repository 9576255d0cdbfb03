"""The commands `quarantine ls`, `replay` and `rm`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from cli import completion, output
from cli.connect import connect
from cli.options import options
from cli.tables import Column
from engine.errors import NO_FILE, USAGE, RookeryError
from engine.plurals import counted

_COLUMNS = [
    Column("id"),
    Column("at", 3),
    Column("row", 1),
    Column("error", text=True),
    Column("text", 2, text=True),
]
Source = Annotated[str, typer.Argument(help="Name of the datasource.", autocompletion=completion.datasources)]
Ids = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of rows, as `quarantine ls` shows them.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="Rows that could not be stored: list, replay, drop.")
    for name, command in (("ls", ls), ("replay", replay), ("rm", rm)):
        group.command(name)(command)
    app.add_typer(group, name="quarantine")


def _path(datasource: str) -> str:
    return f"/v0/datasources/{quote(datasource, safe='')}/quarantine"


def ls(
    datasource: Source,
    limit: Annotated[int, typer.Option(min=0, help="Maximum number of rows to show.")] = 100,
    offset: Annotated[int, typer.Option(min=0, help="Number of newest rows to skip.")] = 0,
) -> None:
    """List rows that could not be stored, newest first, with the reasons.

    Example: [bold]rookery quarantine ls events[/]
    """
    with connect() as connection:
        params = {"limit": limit, "offset": offset}
        quarantine = connection.json("GET", _path(datasource), params=params)
    if options.json:
        output.as_json(quarantine)
        return
    rows = [_table_row(r) for r in quarantine["rows"]]
    output.table(rows, _COLUMNS, f"the quarantine of {datasource} is empty")
    if len(rows) < quarantine["total"]:
        output.say(f"{len(rows):,} of {counted(quarantine['total'], 'row')}; use --limit and --offset for others")


def _table_row(row: dict[str, Any]) -> dict[str, Any]:
    pairs = zip(row["c__error_column"], row["c__error"], strict=True)
    error = "; ".join(f"{column}: {reason}" if column else reason for column, reason in pairs)
    return {
        "id": row["c__id"],
        "at": row["insertion_date"],
        "row": row["c__row"] + 1,
        "error": output.one_line(error),
        "text": row["c__text"],
    }


def replay(
    datasource: Source,
    ids: Ids = None,
    corrected: Annotated[
        str | None,
        typer.Option("--corrected", metavar="FILE", help="NDJSON file with id and text of corrected rows."),
    ] = None,
    mended: Annotated[str | None, typer.Option("--mended", metavar="FILE", hidden=True)] = None,
    everything: Annotated[bool, typer.Option("--all", help="Replay all rows.")] = False,
) -> None:
    """Replay rows, unchanged or corrected. Stored rows leave quarantine. Safe to repeat.

    The exit code is 1 if no row was stored.

    Example: [bold]rookery quarantine replay events --all[/]
    """
    # --mended is the old name of --corrected.
    file = mended if corrected is None else corrected
    if sum((bool(ids), file is not None, everything)) != 1:
        raise RookeryError(USAGE, "specify which rows to replay", hint="ids, --corrected FILE or --all")
    body: dict[str, Any] = {"ids": ids} if ids else {"rows": _corrected_rows(file)} if file is not None else {}
    with connect() as connection, output.progress("replay"):
        result = connection.json("POST", _path(datasource) + "/replay", json=body)
    if options.json:
        output.as_json(result)
    else:
        _show(datasource, result)
    failed = result["quarantined_rows"] or result["refused"] or result["unknown"]
    if failed and not result["successful_rows"] and not result["repeated"]:
        raise typer.Exit(1)


def _show(datasource: str, result: dict[str, Any]) -> None:
    """Print the result of a replay."""
    output.say(f"{counted(result['successful_rows'], 'row')} of {datasource} stored")
    for outcome, count in (
        ("stored by an earlier replay", len(result["repeated"])),
        ("back in quarantine", result["quarantined_rows"]),
        ("not found in quarantine", len(result["unknown"])),
    ):
        if count:
            output.say(f"{counted(count, 'row')} {outcome}", "yellow")
    for row in result["refused"]:
        output.say(f"{row['id']} remains: {row['code']} {row['error']}", "yellow")


def _corrected_rows(file: str) -> list[dict[str, Any]]:
    """Rows with `id` and `text` from NDJSON, or from the output of `quarantine ls --json`."""
    import orjson

    path = Path(file)
    if not path.is_file():
        raise RookeryError(NO_FILE, f"file {file} does not exist", hint="give the path of a file")
    hint = 'lines of {"id": …, "text": …}, or the output of `rookery quarantine ls --json`'
    content = path.read_bytes()
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError:
        document = None
    try:
        lines = content.splitlines() if document is None else []
        rows = [orjson.loads(line) for line in lines if line.strip()]
    except orjson.JSONDecodeError as exc:
        raise RookeryError(USAGE, f"{file} is not NDJSON: {exc}", hint=hint) from exc
    if isinstance(document, dict) and "rows" in document:
        rows = document["rows"]
    elif document is not None:
        rows = [document]
    return [_corrected_row(file, number, row, hint) for number, row in enumerate(rows, 1)]


def _corrected_row(file: str, number: int, row: Any, hint: str) -> dict[str, Any]:
    """A corrected row as the API expects it. Its keys in the file may be those of `quarantine ls --json`."""
    keys = row if isinstance(row, dict) else {}
    corrected = {"id": keys.get("id", keys.get("c__id")), "text": keys.get("text", keys.get("c__text"))}
    if not all(isinstance(value, str) for value in corrected.values()):
        raise RookeryError(USAGE, f"{file}: row {number} has no id, or no text", hint=hint)
    return corrected


def rm(
    datasource: Source,
    ids: Ids = None,
    everything: Annotated[bool, typer.Option("--all", help="Drop all rows.")] = False,
) -> None:
    """Drop rows from quarantine. The exit code is 1 if none of the ids exists.

    Example: [bold]rookery quarantine rm events --all[/]
    """
    if bool(ids) == everything:
        raise RookeryError(USAGE, "specify which rows to drop", hint="ids, or --all")
    body: dict[str, Any] = {"all": True} if everything else {"ids": ids}
    with connect() as connection:
        result = connection.json("DELETE", _path(datasource), json=body)
    if options.json:
        output.as_json(result)
    else:
        output.say(f"{counted(result['removed'], 'row')} dropped from the quarantine of {datasource}")
    missing = len(set(ids or [])) - int(result["removed"])
    if missing > 0:
        output.say(f"{counted(missing, 'id')} not found in quarantine", "yellow")
        if not result["removed"]:
            raise typer.Exit(1)
