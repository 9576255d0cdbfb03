"""The route for ad-hoc SQL."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.errors import BAD_REQUEST, RookeryError
from engine.observe.timer import Timer
from engine.query.request import QueryRequest
from engine.warehouse.port import Format
from engine.web.access import claims_of
from engine.web.pipes import FORMATS, MAX_PARAMETER_BYTES
from engine.web.query_response import respond
from engine.web.requests import head_of, sql_of
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
"""Response formats by the name in a FORMAT clause, in lower case."""


async def sql(request: Request) -> Response:
    """`GET|POST /v0/sql`: one SELECT, in `q` or as the raw body. A FORMAT clause chooses the format."""
    services, timer, head = services_of(request), Timer(), head_of(request.scope)
    text, parameters = await sql_of(request, MAX_PARAMETER_BYTES)
    timer.stage("auth")
    select, format = split_format(text)
    suffix = SQL_FORMATS.get((format or "json").lower())
    if suffix is None:
        message = f"unknown FORMAT {(format or '')[:80]}"
        raise RookeryError(BAD_REQUEST, message, hint="JSON, CSV, CSVWithNames, JSONEachRow or Parquet")
    query = QueryRequest(
        claims_of(request.scope), parameters, RESPONSE_FORMATS[suffix], head.impersonated_tenant(), timer
    )
    return await respond(request, query, lambda query: services.queries.sql(query, select), suffix)


def split_format(text: str) -> tuple[str, str | None]:
    """SQL without the FORMAT clause at its end, and the format in it; None without such a clause."""
    words = text.rstrip().removesuffix(";").rsplit(None, 2)
    if len(words) == 3 and words[1].upper() == "FORMAT" and words[2].isidentifier():
        return words[0], words[2]
    return text, None


def routes() -> list[Route]:
    return [Route("/v0/sql", sql, methods=["GET", "POST"])]
