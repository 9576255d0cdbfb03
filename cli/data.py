"""Commands on data: append, sql, get."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

import typer

from cli import output
from cli.connection import connect, options
from cli.upload_source import Chunk, kind_of, uploads
from engine.errors import NO_FILE, USAGE, RookeryError

ENGINE_FORMATS = {"json": "JSON", "csv": "CSVWithNames", "ndjson": "JSONEachRow"}
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
        raise RookeryError(
            NO_FILE, f"there is no file {file}", hint="give the path of a file, or - for standard input"
        )
    params = {"mode": "append", "name": datasource, "format": format_}
    answers = []
    with _interruptible(key), connect() as connection, output.progress(f"append to {datasource}") as update:
        watched = _watched(update, total)
        for number, upload in enumerate(uploads(file, format_, renamed, skip_rows)):
            headers = {"idempotency-key": f"{key}/{number}" if number else key} if key else {}
            answers.append(
                connection.json("POST", "/v0/datasources", params=params, content=watched(upload), headers=headers)
            )
    found = _together(datasource, answers)
    if options.json:
        output.as_json(found)
    else:
        _tell(found)
    if (found["quarantined"] or "refused" in found) and not found["rows"]:
        raise typer.Exit(1)


def _together(datasource: str, answers: list[dict[str, Any]]) -> dict[str, Any]:
    """What became of a file that was sent in one or several uploads."""
    rows, quarantined, refused = (
        sum(a.get(k, 0) for a in answers) for k in ("rows", "quarantine_rows", "refused_rows")
    )
    before, first = 0, None
    for answer in answers:
        if first is None and "first_bad_row" in answer:
            first = {**answer["first_bad_row"], "row": before + answer["first_bad_row"]["row"]}
        before += answer["rows"] + answer["quarantine_rows"] + answer.get("refused_rows", 0)
    unknown = [a["unknown_keys"] for a in answers if "unknown_keys" in a]
    names = list(dict.fromkeys(n for u in unknown for n in u["names"]))
    found: dict[str, Any] = {"datasource": datasource, "rows": rows, "quarantined": quarantined}
    found["ignored_columns"] = list(dict.fromkeys(c for a in answers for c in a["ignored_columns"]))
    found["repeated"] = bool(answers) and all(a["repeated"] for a in answers)
    if refused:
        found["refused"] = refused
    if first is not None:
        found["first_bad_row"] = first
    if names:
        found["unknown_keys"] = {"count": max(len(names), *(u["count"] for u in unknown)), "names": names}
    return found


@contextmanager
def _interruptible(key: str | None) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        again = "send it again with the same --key" if key else "with a --key it could be sent again without harm"
        output.say(f"stopped; a part of the file may be stored: {again}", "yellow")
        raise


def _tell(found: dict[str, Any]) -> None:
    datasource, quarantined = found["datasource"], found["quarantined"]
    before = " before, under this key; nothing is appended now" if found["repeated"] else ""
    output.say(f"{found['rows']:,} rows appended to {datasource}{before}")
    if ignored := found["ignored_columns"]:
        several = "columns that are" if len(ignored) > 1 else "a column that is"
        output.say(f"warning: {several} not {datasource}'s: {', '.join(ignored)}", "yellow")
    if unknown := found.get("unknown_keys"):
        count, names = unknown["count"], unknown["names"]
        more = f" and {count - len(names):,} more" if count > len(names) else ""
        keys = "a key that no column takes" if count == 1 else f"{count:,} keys that no column takes"
        output.say(f"warning: {keys}: {', '.join(names)}{more}", "yellow")
    if quarantined:
        output.say(f"warning: {quarantined:,} rows went to quarantine: rookery quarantine ls {datasource}", "yellow")
    if refused := found.get("refused"):
        output.say(f"warning: {refused:,} bad rows were refused, since quarantine is full", "yellow")
    if first := found.get("first_bad_row"):
        columns = f" ({', '.join(first['columns'])})" if first["columns"] else ""
        output.say(f"  the first: row {first['row']:,}{columns}: {first['reason']}", "dim")


def _watched(update: Callable[[str, int, int], None], total: int) -> Callable[[Iterator[Chunk]], Iterator[bytes]]:
    """What passes the pieces of uploads on and shows how far they are."""
    done = 0

    def passed(pieces: Iterator[Chunk]) -> Iterator[bytes]:
        nonlocal done
        for piece in pieces:
            yield piece.body
            done += piece.read
            update("", done, total)

    return passed


def _pair(text: str) -> tuple[str, str]:
    theirs, equals, ours = text.partition("=")
    if not equals or not theirs or not ours:
        raise RookeryError(USAGE, f"--rename {text} is not THEIRS=OURS", hint="such as --rename user=user_id")
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
    if not text.strip().rstrip(";"):
        raise RookeryError(USAGE, "the query is empty", hint='such as rookery sql "SELECT 1"')
    wanted = "json" if options.json or format_ == "table" else format_
    if wanted not in ENGINE_FORMATS:
        raise RookeryError(USAGE, f"no format {format_}", hint="table, json, csv or ndjson")
    headers = _looking_through(tenant)
    with connect() as connection:
        body = connection.request(
            "POST", "/v0/sql", content=f"{text.rstrip().rstrip(';')} FORMAT {ENGINE_FORMATS[wanted]}", headers=headers
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
    given = [_parameter(p) for p in parameters or []]
    wanted = "json" if options.json or format_ == "table" else format_
    if wanted not in ENGINE_FORMATS:
        raise RookeryError(USAGE, f"no format {format_}", hint="table, json, csv or ndjson")
    headers = _looking_through(tenant)
    with connect() as connection:
        path = f"/v0/pipes/{Path(endpoint).stem if endpoint.endswith('.yaml') else endpoint}.{wanted}"
        response = connection.request("GET", path, params=given, headers=headers)
    if ignored := response.headers.get("x-rookery-ignored-parameters"):
        names = ", ".join(unquote(name.strip()) for name in ignored.split(","))
        output.say(f"warning: `{endpoint}` ignores these parameters: {names}", "yellow")
    _print(response.content, format_ if not options.json else "json")


def _looking_through(tenant: str | None) -> dict[str, bytes]:
    """The header that selects a tenant. Raises RK7002 for an id that no header can carry."""
    if tenant is None:
        return {}
    if tenant != tenant.strip(" ") or any(c < " " or c == "\x7f" for c in tenant):
        raise RookeryError(
            USAGE,
            f"--tenant {tenant!r}: an id that begins or ends with a space, or has control characters, cannot be sent",
            hint="select its rows in SQL, with a condition on the tenant column",
        )
    return {"x-rookery-tenant": tenant.encode()}


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise RookeryError(USAGE, f"{text} is not NAME=VALUE", hint="such as day=2026-01-31")
    return name, value


def _print(body: bytes, format_: str) -> None:
    if format_ != "table":
        output.raw(body)
        return
    import orjson

    found = orjson.loads(body)
    output.table(found["data"], [c["name"] for c in found["meta"]], "no rows")
