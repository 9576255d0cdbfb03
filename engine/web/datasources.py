"""Routes on datasources: appends of files, receipts and, for admins, the deployed datasources."""

from __future__ import annotations

from functools import partial

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from engine.control import resources
from engine.errors import BAD_FORMAT, BAD_REQUEST, MEDIA_TYPE, RookeryError
from engine.observe.timer import Timer
from engine.query import authorize
from engine.warehouse.port import Input
from engine.web.access import claims_of, require_admin
from engine.web.append_options import (
    CLIENT_PARAMETERS,
    FILE_PARAMETERS,
    FORM_TYPE,
    format_of,
    media_type,
    refuse_unknown,
)
from engine.web.control import control, in_thread
from engine.web.events import writer_of
from engine.web.forms import receive_file
from engine.web.requests import checked_key, head_of
from engine.web.resources import resource
from engine.web.services import services_of
from engine.web.uploads import Upload

INPUTS = {"ndjson": Input.NDJSON, "json": Input.NDJSON, "csv": Input.CSV, "parquet": Input.PARQUET}
"""Formats of files by the value of the parameter `format`."""


async def append(request: Request) -> Response:
    """`POST /v0/datasources?mode=append|replace&name=DATASOURCE&format=csv|ndjson|parquet`, a body of any size."""
    services, timer, head = services_of(request), Timer(), head_of(request.scope)
    query = head.query()
    refuse_unknown(query, FILE_PARAMETERS)
    mode = query.get("mode", "append")
    if mode not in {"append", "replace"}:
        raise RookeryError(BAD_REQUEST, f"unknown mode `{mode[:20]}`", hint="append or replace")
    content_type = request.headers.get("content-type", "")
    # The parameter overrides the Content-Type, which must still be a type for rows.
    declared = format_of(content_type)
    format = (query.get("format") or declared or "csv").lower()
    if format not in INPUTS:
        raise RookeryError(BAD_FORMAT, f"unknown input format `{format[:20]}`", hint="csv, ndjson or parquet")
    writer = writer_of(request.scope, query)
    timer.stage("auth")
    if mode == "replace":
        require_admin(request.scope, "replace rows")
    if media_type(content_type) == FORM_TYPE:
        if "content-encoding" in request.headers:
            hint = "compress the file in the form instead"
            raise RookeryError(MEDIA_TYPE, "a compressed form is not supported", hint=hint)
        request = Request(request.scope, receive_file(content_type, request.receive))
    # A body without rows never reaches the gateway.
    services.gateway.require_writable(writer.datasource, INPUTS[format])
    upload = Upload(services, writer, INPUTS[format], head.idempotency_key())
    body = await (upload.replace(request) if mode == "replace" else upload.append(request))
    timer.stage("append")
    return JSONResponse(body, headers={"server-timing": timer.header()})


async def receipt(request: Request) -> Response:
    """`GET /v0/events/KEY`: the receipts of the appends with an idempotency key."""
    services = services_of(request)
    refuse_unknown(head_of(request.scope).query(), CLIENT_PARAMETERS)
    key, claims = checked_key(request.path_params["key"]), claims_of(request.scope)
    find = partial(services.gateway.receipts.show, authorize.for_receipts(claims), key)
    # Counted as a query, so that many of them do not delay other callers.
    async with services.reader_queue.turn(claims.caller):
        return JSONResponse(await anyio.to_thread.run_sync(find, limiter=services.limiter))


async def datasources_route(request: Request) -> Response:
    """`GET /v0/datasources` lists them; `POST` appends rows."""
    if request.method == "POST":
        return await append(request)
    services = control(request)
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
