"""Data routes: endpoints, ad-hoc SQL and appends. The hot path."""

from __future__ import annotations

from functools import partial

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from engine.errors import BAD_FORMAT, BAD_REQUEST, MEDIA_TYPE, SCOPE, RookeryError
from engine.query import authorize
from engine.query.executor import Timer
from engine.warehouse.port import Format, Input
from engine.web.append_options import (
    CLIENT_PARAMETERS,
    FILE_PARAMETERS,
    FORM_TYPE,
    format_of,
    media_type,
    refuse_unknown,
)
from engine.web.events import PATH, Events, writer
from engine.web.forms import file_in
from engine.web.query_response import answered
from engine.web.requests import checked_key, eyes_of, head_of, key_of, parameters_of, query_of, sql_of, token_of
from engine.web.services import services_of
from engine.web.uploads import Upload

FORMATS = {"json": Format.JSON, "csv": Format.CSV, "ndjson": Format.NDJSON, "parquet": Format.PARQUET}
RESPONSE_FORMATS = {**FORMATS, "bare csv": Format.BARE_CSV}
SQL_FORMATS = {
    "json": "json",
    "csv": "bare csv",
    "csvwithnames": "csv",
    "jsoneachrow": "ndjson",
    "ndjson": "ndjson",
    "parquet": "parquet",
}
INPUTS = {"ndjson": Input.NDJSON, "json": Input.NDJSON, "csv": Input.CSV, "parquet": Input.PARQUET}
MAX_PARAMETER_BODY = 1 << 20


async def call_pipe(request: Request) -> Response:
    """`GET|POST /v0/pipes/NAME.FORMAT`."""
    state, timer = services_of(request), Timer()
    name, suffix = request.path_params["name"], request.path_params["format"]
    claims = authorize.authenticate(state.workspace, token_of(request))
    if suffix not in FORMATS:
        raise RookeryError(BAD_FORMAT, f"no format `{suffix[:20]}`", hint="json, csv, ndjson or parquet")
    given = await parameters_of(request, MAX_PARAMETER_BODY)
    timer.stage("auth")
    run = partial(state.queries.endpoint, claims, name, given, FORMATS[suffix], timer, eyes_of(request))
    return await answered(request, claims, run, suffix, timer)


async def sql(request: Request) -> Response:
    """`GET|POST /v0/sql`: one SELECT, in `q` or as the raw body. The format comes from a FORMAT clause."""
    state, timer = services_of(request), Timer()
    claims = authorize.authenticate(state.workspace, token_of(request))
    text, given = await sql_of(request, MAX_PARAMETER_BODY)
    timer.stage("auth")
    plain, format = split_format(text)
    suffix = SQL_FORMATS.get((format or "json").lower())
    if suffix is None:
        message = f"unknown FORMAT {(format or '')[:80]}"
        raise RookeryError(BAD_REQUEST, message, hint="JSON, CSV, CSVWithNames, JSONEachRow or Parquet")
    run = partial(state.queries.sql, claims, plain, given, RESPONSE_FORMATS[suffix], timer, eyes_of(request))
    return await answered(request, claims, run, suffix, timer)


def split_format(text: str) -> tuple[str, str | None]:
    """SQL without the FORMAT clause at its end, and that clause's format; None where there is no clause."""
    words = text.rstrip().removesuffix(";").rsplit(None, 2)
    if len(words) == 3 and words[1].upper() == "FORMAT" and words[2].isidentifier():
        return words[0], words[2]
    return text, None


async def receipt(request: Request) -> Response:
    """`GET /v0/events/KEY`: what became of the appends under an idempotency key."""
    state = services_of(request)
    refuse_unknown(query_of(request), CLIENT_PARAMETERS)
    claims = authorize.authenticate(state.workspace, token_of(request))
    key = checked_key(request.path_params["key"])
    find = partial(state.gateway.receipts.show, authorize.for_receipts(claims), key)
    return JSONResponse(await anyio.to_thread.run_sync(find, limiter=state.limiter))


async def append(request: Request) -> Response:
    """`POST /v0/datasources?mode=append|replace&name=DATASOURCE&format=csv|ndjson|parquet`, a body of any size."""
    state, timer = services_of(request), Timer()
    query = query_of(request)
    refuse_unknown(query, FILE_PARAMETERS)
    mode = query.get("mode", "append")
    if mode not in {"append", "replace"}:
        raise RookeryError(BAD_REQUEST, f"no mode `{mode[:20]}`", hint="append or replace")
    content_type = request.headers.get("content-type", "")
    kind = (query.get("format") or format_of(content_type) or "csv").lower()
    format_of(content_type)
    if kind not in INPUTS:
        raise RookeryError(BAD_FORMAT, f"no input format `{kind[:20]}`", hint="csv, ndjson or parquet")
    name, bound, token = writer(state, head_of(request.scope))
    timer.stage("auth")
    if mode == "replace" and not authorize.authenticate(state.workspace, token_of(request)).is_admin:
        raise RookeryError(SCOPE, "only an admin replaces rows")
    if media_type(content_type) == FORM_TYPE:
        if "content-encoding" in request.headers:
            hint = "compress the file in the form instead"
            raise RookeryError(MEDIA_TYPE, "a form is not opened as a whole", hint=hint)
        request = Request(request.scope, file_in(content_type, request.receive))
    # A body may hold no row at all, and the datasource is to be one that takes rows even so.
    state.gateway.append(name, b"", INPUTS[kind])
    upload = Upload(state, name, bound, token, INPUTS[kind], key_of(request))
    body = await (upload.replace(request) if mode == "replace" else upload.append(request))
    timer.stage("append")
    return JSONResponse(body, headers={"server-timing": timer.header()})


def routes() -> list[Route]:
    return [
        Route("/v0/pipes/{name}.{format}", call_pipe, methods=["GET", "POST"]),
        Route("/v0/sql", sql, methods=["GET", "POST"]),
        Route(PATH, Events(), methods=["POST"]),
        Route("/v0/events/{key:path}", receipt, methods=["GET"]),
    ]
