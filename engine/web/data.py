"""Data routes: endpoints, ad-hoc SQL and appends. The hot path."""

from __future__ import annotations

import re
from functools import partial

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from engine.errors import BAD_FORMAT, BAD_REQUEST, RookeryError
from engine.serve import access
from engine.serve.ingest import describe_rows
from engine.serve.query import Answer, Timer
from engine.warehouse.port import Format, Input
from engine.web.requests import EYES, body_of, flag, parameters_of, query_of, sql_of, token_of
from engine.web.state import State, state_of
from engine.web.streaming import CONTENT_TYPES, StreamedAnswer

FORMATS = {"json": Format.JSON, "csv": Format.CSV, "ndjson": Format.NDJSON, "parquet": Format.PARQUET}
SQL_FORMATS = {
    "json": "json",
    "csv": "csv",
    "csvwithnames": "csv",
    "jsoneachrow": "ndjson",
    "ndjson": "ndjson",
    "parquet": "parquet",
}
INPUTS = {"ndjson": Input.NDJSON, "json": Input.NDJSON, "csv": Input.CSV, "parquet": Input.PARQUET}
_FORMAT_CLAUSE = re.compile(r"\s+FORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)
MAX_PARAMETER_BODY = 1 << 20


async def call_pipe(request: Request) -> Response:
    """`GET|POST /v0/pipes/NAME.FORMAT`."""
    state, timer = state_of(request), Timer()
    name, _, suffix = request.path_params["name"].rpartition(".")
    claims = access.authenticate(state.workspace, token_of(request))
    if suffix not in FORMATS:
        raise RookeryError(BAD_FORMAT, f"no format `{suffix[:20]}`", hint="json, csv, ndjson or parquet")
    given = await parameters_of(request, MAX_PARAMETER_BODY)
    timer.stage("auth")
    run = partial(state.queries.endpoint, claims, name, given, FORMATS[suffix], timer, request.headers.get(EYES))
    answer = await anyio.to_thread.run_sync(run, limiter=state.limiter)
    return _respond(state, answer, suffix, timer)


def _respond(state: State, answer: Answer, suffix: str, timer: Timer) -> Response:
    media = CONTENT_TYPES[suffix]
    response: Response
    if answer.complete:
        response = Response(answer.head, media_type=None, headers={"content-type": media})
    else:
        response = StreamedAnswer(answer, media, state.streams)
    response.headers["server-timing"] = timer.header()
    return response


async def sql(request: Request) -> Response:
    """`GET|POST /v0/sql`: one SELECT, in `q` or as the raw body. The format comes from a FORMAT clause."""
    state, timer = state_of(request), Timer()
    claims = access.authenticate(state.workspace, token_of(request))
    text, given = await sql_of(request, MAX_PARAMETER_BODY)
    timer.stage("auth")
    clause = _FORMAT_CLAUSE.search(text)
    suffix = SQL_FORMATS.get((clause.group(1) if clause else "json").lower())
    if suffix is None:
        raise RookeryError(BAD_REQUEST, "unknown FORMAT", hint="JSON, CSVWithNames, JSONEachRow or Parquet")
    plain = text[: clause.start()] if clause else text
    run = partial(state.queries.sql, claims, plain, given, FORMATS[suffix], timer, request.headers.get(EYES))
    answer = await anyio.to_thread.run_sync(run, limiter=state.limiter)
    return _respond(state, answer, suffix, timer)


async def events(request: Request) -> Response:
    """`POST /v0/events?name=DATASOURCE`: NDJSON or one JSON object. All rows are stored, or none."""
    state, timer = state_of(request), Timer()
    wait = flag(query_of(request).get("wait"), False)
    rows = await _append(request, state, timer, Input.NDJSON)
    response = JSONResponse(describe_rows(rows), 200 if wait else 202)
    response.headers["server-timing"] = timer.header()
    return response


async def append(request: Request) -> Response:
    """`POST /v0/datasources?mode=append&name=DATASOURCE&format=csv|ndjson|parquet`."""
    state, timer = state_of(request), Timer()
    query = query_of(request)
    if query.get("mode", "append") != "append":
        raise RookeryError(BAD_REQUEST, "only mode=append is known")
    name = query.get("format", "csv").lower()
    if name not in INPUTS:
        raise RookeryError(BAD_FORMAT, f"no input format `{name[:20]}`", hint="csv, ndjson or parquet")
    rows = await _append(request, state, timer, INPUTS[name])
    body = {"datasource": query.get("name"), "invalid_lines": 0, "quarantine_rows": 0, "rows": rows}
    return JSONResponse(body, headers={"server-timing": timer.header()})


async def _append(request: Request, state: State, timer: Timer, format: Input) -> int:
    claims = access.authenticate(state.workspace, token_of(request))
    name = query_of(request).get("name")
    if not name:
        raise RookeryError(BAD_REQUEST, "no datasource named", hint="?name=DATASOURCE")
    bound = access.for_append(state.workspace.current, claims, name)
    timer.stage("auth")
    body = await body_of(request, state.workspace.settings.max_body)
    timer.stage("body")
    run = partial(state.ingestion.append, name, body, format, bound)
    rows = await anyio.to_thread.run_sync(run, limiter=state.limiter)
    timer.stage("append")
    return rows


def routes() -> list[Route]:
    return [
        Route("/v0/sql", sql, methods=["GET", "POST"]),
        Route("/v0/events", events, methods=["POST"]),
    ]
