"""The route for ad-hoc SQL."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.errors import BAD_REQUEST, RookeryError
from engine.query import authorize
from engine.query.executor import Timer
from engine.warehouse.port import Format
from engine.web.pipes import FORMATS, MAX_PARAMETER_BYTES
from engine.web.query_response import answered
from engine.web.requests import eyes_of, sql_of, token_of
from engine.web.services import services_of

RESPONSE_FORMATS = {**FORMATS, "bare csv": Format.BARE_CSV}
SQL_FORMATS = {
    "json": "json",
    "csv": "bare csv",
    "csvwithnames": "csv",
    "jsoneachrow": "ndjson",
    "ndjson": "ndjson",
    "parquet": "parquet",
}


async def sql(request: Request) -> Response:
    """`GET|POST /v0/sql`: one SELECT, in `q` or as the raw body. A FORMAT clause chooses the format."""
    services, timer = services_of(request), Timer()
    claims = authorize.authenticate(services.workspace, token_of(request))
    text, given = await sql_of(request, MAX_PARAMETER_BYTES)
    timer.stage("auth")
    plain, format = split_format(text)
    suffix = SQL_FORMATS.get((format or "json").lower())
    if suffix is None:
        message = f"unknown FORMAT {(format or '')[:80]}"
        raise RookeryError(BAD_REQUEST, message, hint="JSON, CSV, CSVWithNames, JSONEachRow or Parquet")
    run = partial(services.queries.sql, claims, plain, given, RESPONSE_FORMATS[suffix], timer, eyes_of(request))
    return await answered(request, claims, run, suffix, timer)


def split_format(text: str) -> tuple[str, str | None]:
    """SQL without the FORMAT clause at its end, and that clause's format; None where there is no clause."""
    words = text.rstrip().removesuffix(";").rsplit(None, 2)
    if len(words) == 3 and words[1].upper() == "FORMAT" and words[2].isidentifier():
        return words[0], words[2]
    return text, None


def routes() -> list[Route]:
    return [Route("/v0/sql", sql, methods=["GET", "POST"])]
