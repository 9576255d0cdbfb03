"""Commands on data: append, sql, get."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cli import terminal
from cli.batches import Piece, kind_of, uploads
from cli.connection import connect, options
from engine.errors import NO_FILE, USAGE, RookeryError

BY_NAME = {"json": "JSON", "csv": "CSVWithNames", "ndjson": "JSONEachRow"}
Eyes = Annotated[
    str | None,
    typer.Option("--tenant", help="Look through this tenant's eyes (admin); all tenants without."),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(append)
    app.command()(sql)
    app.command()(get)


def append(
    datasource: Annotated[str, typer.Argument(help="Datasource to append to.")],
    file: Annotated[str, typer.Argument(help="NDJSON, CSV (with header) or Parquet file; - for standard input.")],
    kind: Annotated[
        str | None, typer.Option("--format", help="ndjson, csv or parquet; by the file's ending, ndjson for -.")
    ] = None,
    rename: Annotated[
        list[str] | None, typer.Option("--rename", metavar="THEIRS=OURS", help="Rename a CSV column.")
    ] = None,
    skip_rows: Annotated[int, typer.Option(min=0, help="Leave out this many rows behind the header.")] = 0,
    key: Annotated[
        str | None, typer.Option(help="Idempotency key: under it the same file is stored once, however often.")
    ] = None,
) -> None:
    """Append a file's rows. Rows that cannot be stored go to quarantine; the others are stored. Exit code 1 when
    none could be.

    Example: [bold]rookery append events events.ndjson[/]
    """
    renamed = dict(_pair(r) for r in rename or [])
    format_ = kind or kind_of(file)
    total = Path(file).stat().st_size if file != "-" and Path(file).is_file() else 0
    if file != "-" and not Path(file).is_file():
        raise RookeryError(NO_FILE, f"there is no file {file}")
    params = {"mode": "append", "name": datasource, "format": format_}
    answers = []
    with _interruptible(key), connect() as connection, terminal.progress(f"append to {datasource}") as update:
        watched = _watched(update, total)
        for number, upload in enumerate(uploads(file, format_, renamed, skip_rows)):
            headers = {"idempotency-key": f"{key}/{number}" if number else key} if key else {}
            answers.append(
                connection.json("POST", "/v0/datasources", params=params, content=watched(upload), headers=headers)
            )
    rows, quarantined = (sum(a[k] for a in answers) for k in ("rows", "quarantine_rows"))
    ignored = list(dict.fromkeys(c for a in answers for c in a["ignored_columns"]))
    repeated = bool(answers) and all(a["repeated"] for a in answers)
    if options.json:
        found = {"datasource": datasource, "rows": rows, "quarantined": quarantined}
        terminal.as_json({**found, "ignored_columns": ignored, "repeated": repeated})
    else:
        _tell(datasource, rows, quarantined, ignored, repeated)
    if quarantined and not rows:
        raise typer.Exit(1)


@contextmanager
def _interruptible(key: str | None) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        again = "send it again with the same --key" if key else "with a --key it could be sent again without harm"
        terminal.say(f"stopped; a part of the file may be stored: {again}", "yellow")
        raise


def _tell(datasource: str, rows: int, quarantined: int, ignored: list[str], repeated: bool) -> None:
    before = " before, under this key; nothing is appended now" if repeated else ""
    terminal.say(f"{rows:,} rows appended to {datasource}{before}")
    if ignored:
        several = "columns that are" if len(ignored) > 1 else "a column that is"
        terminal.say(f"warning: {several} not {datasource}'s: {', '.join(ignored)}", "yellow")
    if quarantined:
        terminal.say(
            f"warning: {quarantined:,} rows went to quarantine: rookery quarantine ls {datasource}", "yellow"
        )


def _watched(update: Callable[[str, int, int], None], total: int) -> Callable[[Iterator[Piece]], Iterator[bytes]]:
    """What passes the pieces of uploads on and shows how far they are."""
    done = 0

    def passed(pieces: Iterator[Piece]) -> Iterator[bytes]:
        nonlocal done
        for piece in pieces:
            yield piece.body
            done += piece.read
            update("", done, total)

    return passed


def _pair(text: str) -> tuple[str, str]:
    theirs, equals, ours = text.partition("=")
    if not equals or not theirs or not ours:
        raise RookeryError(USAGE, f"--rename {text} is not THEIRS=OURS")
    return theirs, ours


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT; - reads it from standard input.")],
    format_: Annotated[str, typer.Option("--format", help="table, json, csv or ndjson.")] = "table",
    tenant: Eyes = None,
) -> None:
    """Run a SELECT over the workspace's datasources and pipes.

    Example: [bold]rookery sql "SELECT count() FROM events"[/]
    """
    text = sys.stdin.read() if query == "-" else query
    wanted = "json" if options.json or format_ == "table" else format_
    if wanted not in BY_NAME:
        raise RookeryError(USAGE, f"no format {format_}", hint="table, json, csv or ndjson")
    headers = {"x-rookery-tenant": tenant} if tenant else {}
    with connect() as connection:
        body = connection.request(
            "POST", "/v0/sql", content=f"{text.rstrip().rstrip(';')} FORMAT {BY_NAME[wanted]}", headers=headers
        ).content
    _print(body, format_ if not options.json else "json")


def get(
    endpoint: Annotated[str, typer.Argument(help="Name of the endpoint.")],
    parameters: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Its parameters.")] = None,
    format_: Annotated[str, typer.Option("--format", help="table, json, csv or ndjson.")] = "table",
    tenant: Eyes = None,
) -> None:
    """Call an endpoint. An admin may look through a tenant's eyes.

    Example: [bold]rookery get usage from_day=2026-01-01 --tenant 17[/]
    """
    given = dict(_parameter(p) for p in parameters or [])
    wanted = "json" if options.json or format_ == "table" else format_
    if wanted not in BY_NAME:
        raise RookeryError(USAGE, f"no format {format_}", hint="table, json, csv or ndjson")
    headers = {"x-rookery-tenant": tenant} if tenant else {}
    with connect() as connection:
        path = f"/v0/pipes/{Path(endpoint).stem if endpoint.endswith('.yaml') else endpoint}.{wanted}"
        body = connection.request("GET", path, params=given, headers=headers).content
    _print(body, format_ if not options.json else "json")


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise RookeryError(USAGE, f"{text} is not NAME=VALUE")
    return name, value


def _print(body: bytes, format_: str) -> None:
    if format_ != "table":
        terminal.raw(body)
        return
    import orjson

    found = orjson.loads(body)
    terminal.table(found["data"], [c["name"] for c in found["meta"]], "no rows")
