"""Routes on datasources: appending files, receipts, and for admins the deployed datasources."""

from __future__ import annotations

from functools import partial

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from engine.control import resources
from engine.errors import BAD_FORMAT, BAD_REQUEST, MEDIA_TYPE, SCOPE, RookeryError
from engine.query import authorize
from engine.query.executor import Timer
from engine.warehouse.port import Input
from engine.web.append_options import (
    CLIENT_PARAMETERS,
    FILE_PARAMETERS,
    FORM_TYPE,
    format_of,
    media_type,
    refuse_unknown,
)
from engine.web.control import admin, in_thread
from engine.web.events import writer
from engine.web.forms import file_in
from engine.web.requests import checked_key, head_of, key_of, query_of, token_of
from engine.web.resources import resource
from engine.web.services import services_of
from engine.web.uploads import Upload

INPUTS = {"ndjson": Input.NDJSON, "json": Input.NDJSON, "csv": Input.CSV, "parquet": Input.PARQUET}


async def append(request: Request) -> Response:
    """`POST /v0/datasources?mode=append|replace&name=DATASOURCE&format=csv|ndjson|parquet`, a body of any size."""
    services, timer = services_of(request), Timer()
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
    name, bound, token = writer(services, head_of(request.scope))
    timer.stage("auth")
    if mode == "replace" and not authorize.authenticate(services.workspace, token_of(request)).is_admin:
        raise RookeryError(SCOPE, "only an admin replaces rows")
    if media_type(content_type) == FORM_TYPE:
        if "content-encoding" in request.headers:
            hint = "compress the file in the form instead"
            raise RookeryError(MEDIA_TYPE, "a form is not opened as a whole", hint=hint)
        request = Request(request.scope, file_in(content_type, request.receive))
    # The body may hold no row at all. The datasource must take rows in any case.
    services.gateway.append(name, b"", INPUTS[kind])
    upload = Upload(services, name, bound, token, INPUTS[kind], key_of(request))
    body = await (upload.replace(request) if mode == "replace" else upload.append(request))
    timer.stage("append")
    return JSONResponse(body, headers={"server-timing": timer.header()})


async def receipt(request: Request) -> Response:
    """`GET /v0/events/KEY`: what became of the appends under an idempotency key."""
    services = services_of(request)
    refuse_unknown(query_of(request), CLIENT_PARAMETERS)
    claims = authorize.authenticate(services.workspace, token_of(request))
    key = checked_key(request.path_params["key"])
    find = partial(services.gateway.receipts.show, authorize.for_receipts(claims), key)
    return JSONResponse(await anyio.to_thread.run_sync(find, limiter=services.limiter))


async def datasources_route(request: Request) -> Response:
    """`GET /v0/datasources` for admins; `POST` appends and needs only an append token."""
    if request.method == "POST":
        return await append(request)
    services = admin(request)
    return JSONResponse(
        {"datasources": await in_thread(services, partial(resources.datasources, services.workspace))}
    )


async def datasource_route(request: Request) -> Response:
    """`GET|DELETE /v0/datasources/NAME`."""
    return await resource(request, "datasource", request.path_params["name"])


def routes() -> list[Route]:
    return [
        Route("/v0/events/{key:path}", receipt, methods=["GET"]),
        Route("/v0/datasources", datasources_route, methods=["GET", "POST"]),
        Route("/v0/datasources/{name}", datasource_route, methods=["GET", "DELETE"]),
    ]
