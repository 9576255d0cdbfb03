"""Commands on quarantine: ls, replay, rm."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import orjson
import typer

from cli import output
from cli.connection import connect, options
from engine.errors import NO_FILE, USAGE, RookeryError

ROW_CHARACTERS = 60
"""Characters of a row that a list shows."""
Source = Annotated[str, typer.Argument(help="Datasource whose quarantine is meant.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Rows' ids, as `ls` shows them.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="Rows that could not be stored: list, send again, drop.")
    for name, command in (("ls", ls), ("replay", replay), ("rm", rm)):
        group.command(name)(command)
    app.add_typer(group, name="quarantine")


def _path(datasource: str) -> str:
    return f"/v0/datasources/{quote(datasource, safe='')}/quarantine"


def ls(
    datasource: Source,
    limit: Annotated[int, typer.Option(min=0, help="Most rows to show.")] = 100,
    offset: Annotated[int, typer.Option(min=0, help="Newer rows to pass over.")] = 0,
) -> None:
    """List rows that could not be stored, the newest first, with what is wrong.

    Example: [bold]rookery quarantine ls events[/]
    """
    with connect() as connection:
        params = {"limit": limit, "offset": offset}
        found = connection.json("GET", _path(datasource), params=params)
    if options.json:
        output.as_json(found)
        return
    rows = [_row(r) for r in found["rows"]]
    output.table(rows, ["id", "at", "row", "error", "text"], f"the quarantine of {datasource} is empty")
    if len(rows) < found["total"]:
        output.say(f"{len(rows):,} of {found['total']:,} rows; --limit and --offset show others")


def _row(row: dict[str, Any]) -> dict[str, Any]:
    pairs = zip(row["c__error_column"], row["c__error"], strict=True)
    error = "; ".join(f"{column}: {why}" if column else why for column, why in pairs)
    text = row["c__text"] if len(row["c__text"]) <= ROW_CHARACTERS else row["c__text"][: ROW_CHARACTERS - 1] + "…"
    shown = {"error": error, "text": text}
    return {"id": row["c__id"], "at": row["insertion_date"], "row": row["c__row"] + 1} | {
        k: v.replace("\n", " ") for k, v in shown.items()
    }


def replay(
    datasource: Source,
    ids: Ids = None,
    mended: Annotated[
        str | None, typer.Option("--mended", metavar="FILE", help="NDJSON file of id and text of mended rows.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Send all rows.")] = False,
) -> None:
    """Send rows again, as they are or mended; those that are stored leave quarantine. Safe to repeat.

    Exit code 1 when none of them is stored.

    Example: [bold]rookery quarantine replay events --all[/]
    """
    if sum((bool(ids), mended is not None, everything)) != 1:
        raise RookeryError(USAGE, "it is not clear which rows to send", hint="give ids, --mended FILE or --all")
    body: dict[str, Any] = {"ids": ids} if ids else {"rows": _mended(mended)} if mended is not None else {}
    with connect() as connection:
        found = connection.json("POST", _path(datasource) + "/replay", json=body)
    if options.json:
        output.as_json(found)
    else:
        _show(datasource, found)
    stays = found["quarantined_rows"] or found["refused"] or found["unknown"]
    if stays and not found["successful_rows"] and not found["repeated"]:
        raise typer.Exit(1)


def _show(datasource: str, found: dict[str, Any]) -> None:
    """What became of rows that were sent again."""
    output.say(f"{output.counted(found['successful_rows'], 'row')} of {datasource} stored")
    for what, count in (
        ("stored by an earlier replay", len(found["repeated"])),
        ("back in quarantine", found["quarantined_rows"]),
        ("not found in quarantine", len(found["unknown"])),
    ):
        if count:
            output.say(f"{output.counted(count, 'row')} {what}", "yellow")
    for row in found["refused"]:
        output.say(f"{row['id']} stays: {row['code']} {row['error']}", "yellow")


def _mended(file: str) -> list[dict[str, Any]]:
    path = Path(file)
    if not path.is_file():
        raise RookeryError(NO_FILE, f"there is no file {file}", hint="give the path of a file")
    hint = 'lines of {"id": …, "text": …}, or what `rookery quarantine ls --json` shows'
    try:
        listed = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError:
        listed = None
    try:
        lines = path.read_bytes().splitlines() if listed is None else []
        found = [orjson.loads(line) for line in lines if line.strip()]
    except orjson.JSONDecodeError as exc:
        raise RookeryError(USAGE, f"{file} is not NDJSON: {exc}", hint=hint) from exc
    if isinstance(listed, dict) and "rows" in listed:
        found = listed["rows"]
    elif listed is not None:
        found = [listed]
    return [_row_of(file, number, row, hint) for number, row in enumerate(found, 1)]


def _row_of(file: str, number: int, row: Any, hint: str) -> dict[str, Any]:
    """A mended row with the keys of the API, or with those of a list."""
    given = row if isinstance(row, dict) else {}
    made = {"id": given.get("id", given.get("c__id")), "text": given.get("text", given.get("c__text"))}
    if not all(isinstance(value, str) for value in made.values()):
        raise RookeryError(USAGE, f"{file}: row {number} has no id, or no text", hint=hint)
    return made


def rm(
    datasource: Source,
    ids: Ids = None,
    everything: Annotated[bool, typer.Option("--all", help="Drop all rows.")] = False,
) -> None:
    """Drop rows from quarantine. Exit code 1 when none of the ids is there.

    Example: [bold]rookery quarantine rm events --all[/]
    """
    if bool(ids) == everything:
        raise RookeryError(USAGE, "it is not clear which rows to drop", hint="give ids, or --all")
    body: dict[str, Any] = {"all": True} if everything else {"ids": ids}
    with connect() as connection:
        found = connection.json("DELETE", _path(datasource), json=body)
    if options.json:
        output.as_json(found)
    else:
        output.say(f"{output.counted(found['removed'], 'row')} dropped from the quarantine of {datasource}")
    missing = len(set(ids or [])) - int(found["removed"])
    if missing > 0:
        output.say(f"{output.counted(missing, 'id')} not found in quarantine", "yellow")
        if not found["removed"]:
            raise typer.Exit(1)
