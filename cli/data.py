"""The commands `append`, `sql` and `get`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote

import typer

from cli import completion, output
from cli.connect import connect
from cli.options import options
from cli.tables import Column
from engine.errors import NO_FILE, USAGE, RookeryError
from engine.plurals import counted

if TYPE_CHECKING:
    from cli.upload_source import Chunk

ENGINE_FORMATS = {"json": "JSON", "csv": "CSVWithNames", "ndjson": "JSONEachRow"}
_KEY = re.compile(r"[ -~]{1,255}")
ImpersonatedTenant = Annotated[
    str | None,
    typer.Option(
        "--tenant",
        autocompletion=completion.tenants,
        help="Run the query as this tenant (READ:ALL or ADMIN). By default, these read all tenants.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(append)
    app.command()(sql)
    app.command()(get)


def append(
    datasource: Annotated[str, typer.Argument(help="Name of the datasource.", autocompletion=completion.datasources)],
    file: Annotated[str, typer.Argument(help="NDJSON, CSV (with header) or Parquet file; - for standard input.")],
    format_option: Annotated[
        str | None,
        typer.Option(
            "--format", help="ndjson, csv or parquet. By default, the file's extension decides; ndjson for -."
        ),
    ] = None,
    rename: Annotated[
        list[str] | None, typer.Option("--rename", metavar="OLD=NEW", help="Rename a CSV column. May be repeated.")
    ] = None,
    skip_rows: Annotated[int, typer.Option(min=0, help="Number of rows to skip after the header.")] = 0,
    key: Annotated[
        str | None, typer.Option(help="Idempotency key: the same file with the same key is stored only once.")
    ] = None,
) -> None:
    """Append the rows of a file. Rows that cannot be stored go to quarantine.

    The exit code is 1 if no row could be stored.

    Example: [bold]rookery append events events.ndjson[/]
    """
    from cli.upload_source import format_of, uploads

    if key is not None and not _KEY.fullmatch(key):
        problem = "is empty" if not key else "must have 1 to 255 printable ASCII characters"
        raise RookeryError(USAGE, f"the idempotency key {problem}", hint="for example --key import-2026-01-31")
    renamed = dict(_old_and_new_name(r) for r in rename or [])
    format_ = format_option or format_of(file)
    total_bytes = Path(file).stat().st_size if file != "-" and Path(file).is_file() else 0
    if file != "-" and (not Path(file).exists() or Path(file).is_dir()):
        problem = "is a directory" if Path(file).is_dir() else "does not exist"
        raise RookeryError(NO_FILE, f"file {file} {problem}", hint="give the path of a file, or - for standard input")
    params = {"mode": "append", "name": datasource, "format": format_}
    responses = []
    with _interruptible(key), connect() as connection, output.progress(f"append to {datasource}") as update:
        reporting = _reporting(update, total_bytes)
        for number, upload in enumerate(uploads(file, format_, renamed, skip_rows)):
            headers = {"idempotency-key": f"{key}/{number}" if number else key} if key else {}
            body = reporting(upload)
            responses.append(connection.json("POST", "/v0/datasources", params=params, content=body, headers=headers))
    result = _combined(datasource, responses)
    if options.json:
        output.as_json(result)
    else:
        _show(result)
    if (result["quarantined"] or "refused" in result) and not result["rows"]:
        raise typer.Exit(1)


def _combined(datasource: str, responses: list[dict[str, Any]]) -> dict[str, Any]:
    """The result for a file from the responses to its uploads."""
    rows, quarantined, refused = (
        sum(r.get(k, 0) for r in responses) for k in ("rows", "quarantine_rows", "refused_rows")
    )
    rows_before, first = 0, None
    for response in responses:
        if first is None and "first_bad_row" in response:
            first = {**response["first_bad_row"], "row": rows_before + response["first_bad_row"]["row"]}
        rows_before += response["rows"] + response["quarantine_rows"] + response.get("refused_rows", 0)
    unknown = [r["unknown_keys"] for r in responses if "unknown_keys" in r]
    names = list(dict.fromkeys(n for u in unknown for n in u["names"]))
    result: dict[str, Any] = {"datasource": datasource, "rows": rows, "quarantined": quarantined}
    result["ignored_columns"] = list(dict.fromkeys(c for r in responses for c in r["ignored_columns"]))
    result["repeated"] = bool(responses) and all(r["repeated"] for r in responses)
    if refused:
        result["refused"] = refused
    if first is not None:
        result["first_bad_row"] = first
    if names:
        result["unknown_keys"] = {"count": max(len(names), *(u["count"] for u in unknown)), "names": names}
    return result


@contextmanager
def _interruptible(key: str | None) -> Iterator[None]:
    """After Ctrl-C, print how to repeat the upload."""
    try:
        yield
    except KeyboardInterrupt:
        advice = (
            "repeat the command with the same --key" if key else "with --key the command could be repeated safely"
        )
        output.say(f"stopped; part of the file may be stored: {advice}", "yellow")
        raise


def _show(result: dict[str, Any]) -> None:
    """Print the result of an append."""
    datasource, quarantined = result["datasource"], result["quarantined"]
    earlier = " by an earlier command with this key; nothing is appended now" if result["repeated"] else ""
    output.say(f"{counted(result['rows'], 'row')} appended to {datasource}{earlier}")
    if ignored := result["ignored_columns"]:
        columns = counted(len(ignored), "column")
        output.say(f"warning: ignored {columns} that {datasource} does not have: {', '.join(ignored)}", "yellow")
    if unknown := result.get("unknown_keys"):
        count, names = unknown["count"], unknown["names"]
        more = f" and {count - len(names):,} more" if count > len(names) else ""
        keys = counted(count, "key")
        output.say(f"warning: ignored {keys} that no column reads: {', '.join(names)}{more}", "yellow")
    if quarantined:
        output.say(
            f"warning: {counted(quarantined, 'row')} went to quarantine: rookery quarantine ls {datasource}",
            "yellow",
        )
    if refused := result.get("refused"):
        output.say(f"warning: {counted(refused, 'bad row')} refused: the quarantine is full", "yellow")
    if first := result.get("first_bad_row"):
        columns = f" ({', '.join(first['columns'])})" if first["columns"] else ""
        output.say(f"  first bad row: {first['row']:,}{columns}: {first['reason']}", "dim")


def _reporting(
    update: Callable[[str, int, int], None], total_bytes: int
) -> Callable[[Iterator[Chunk]], Iterator[bytes]]:
    """A function that returns the bytes of chunks, and reports the progress over all its calls."""
    done_bytes = 0

    def report(chunks: Iterator[Chunk]) -> Iterator[bytes]:
        nonlocal done_bytes
        for chunk in chunks:
            yield chunk.body
            done_bytes += chunk.read
            update("", done_bytes, total_bytes)

    return report


def _old_and_new_name(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not equals or not old or not new:
        raise RookeryError(USAGE, f"--rename {text} is not OLD=NEW", hint="for example --rename user=user_id")
    return old, new


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT; - reads it from standard input.")],
    format_: Annotated[str, typer.Option("--format", help="table, json, csv or ndjson.")] = "table",
    tenant: ImpersonatedTenant = None,
) -> None:
    """Run a SELECT over the workspace's datasources and pipes.

    Example: [bold]rookery sql "SELECT count() FROM events"[/]
    """
    text = sys.stdin.read() if query == "-" else query
    if not text.strip().rstrip(";"):
        raise RookeryError(USAGE, "the query is empty", hint='for example rookery sql "SELECT 1"')
    response_format = _response_format(format_)
    headers = tenant_header(tenant)
    with connect() as connection:
        body = connection.request(
            "POST",
            "/v0/sql",
            content=f"{text.rstrip().rstrip(';')} FORMAT {ENGINE_FORMATS[response_format]}",
            headers=headers,
        ).content
    _print(body, format_ if not options.json else "json")


def get(
    endpoint: Annotated[str, typer.Argument(help="Name of the endpoint.", autocompletion=completion.endpoints)],
    parameters: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Parameters of the endpoint.")
    ] = None,
    format_: Annotated[str, typer.Option("--format", help="table, json, csv or ndjson.")] = "table",
    tenant: ImpersonatedTenant = None,
) -> None:
    """Call an endpoint. Admins can call it as a tenant.

    Example: [bold]rookery get usage from_day=2026-01-01 --tenant 17[/]
    """
    pairs = [parameter(p) for p in parameters or []]
    response_format = _response_format(format_)
    headers = tenant_header(tenant)
    with connect() as connection:
        path = f"/v0/pipes/{Path(endpoint).stem if endpoint.endswith('.yaml') else endpoint}.{response_format}"
        response = connection.request("GET", path, params=pairs, headers=headers)
    if ignored := response.headers.get("x-rookery-ignored-parameters"):
        warn_of_ignored(endpoint, [unquote(name.strip()) for name in ignored.split(",")])
    _print(response.content, format_ if not options.json else "json")


def _response_format(format_: str) -> str:
    """The format to request from the server. Raises RK7002 for an unknown one, and for two different ones."""
    if format_ not in ("table", *ENGINE_FORMATS):
        raise RookeryError(USAGE, f"unknown format {format_}", hint="table, json, csv or ndjson")
    if options.json and format_ not in ("table", "json"):
        raise RookeryError(USAGE, f"--json and --format {format_} contradict each other", hint="remove one of them")
    return "json" if options.json or format_ == "table" else format_


def warn_of_ignored(endpoint: str, names: Sequence[str]) -> None:
    """Print a warning with the parameters that had no effect on a call."""
    if names:
        output.say(f"warning: `{endpoint}` ignores these parameters: {', '.join(names)}", "yellow")


def tenant_header(tenant: str | None) -> dict[str, bytes]:
    """The header that selects a tenant. Raises RK7002 for an id that cannot be sent in a header."""
    if tenant is None:
        return {}
    if tenant != tenant.strip(" ") or any(c < " " or c == "\x7f" for c in tenant):
        raise RookeryError(
            USAGE,
            f"--tenant {tenant!r}: an id with control characters, or a space at its start or end, cannot be sent",
            hint="select the tenant in SQL, by a condition on the tenant column",
        )
    return {"x-rookery-tenant": tenant.encode()}


def parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise RookeryError(USAGE, f"{text} is not NAME=VALUE", hint="for example day=2026-01-31")
    return name, value


def _print(body: bytes, format_: str) -> None:
    if format_ != "table":
        output.raw(body)
        return
    import orjson

    result = orjson.loads(body)
    # Numbers may be ids or years, so they have no thousands separators.
    output.table(result["data"], [_column(c["name"], c["type"]) for c in result["meta"]], "no rows", number="d")


def _column(name: str, type: str) -> Column:
    """A column of a result. Strings and collections may be wrapped; nothing is shortened."""
    is_text = any(word in type for word in ("String", "Array", "Map", "Tuple", "JSON", "Dynamic", "Variant"))
    return Column(name, text=is_text, shorten=False)
