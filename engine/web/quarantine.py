"""Routes on quarantine, where rows of all tenants lie together: admin tokens only."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from engine.errors import BAD_REQUEST, RookeryError
from engine.ingest import quarantine
from engine.ingest.replay import replay
from engine.query import authorize
from engine.web.append_options import CLIENT_PARAMETERS, LISTING_PARAMETERS, refuse_unknown
from engine.web.requests import json_of, query_of, token_of
from engine.web.services import Services, services_of

DEFAULT_LISTED_ROWS, MAX_LISTED_ROWS = 100, 10_000
MAX_OFFSET = 1 << 62


def _admin(request: Request) -> Services:
    state = services_of(request)
    authorize.authenticate(state.workspace, token_of(request)).require_admin()
    return state


async def quarantine_route(request: Request) -> Response:
    """`GET /v0/datasources/NAME/quarantine?limit=&offset=`; `DELETE` with `{ids}` or `{all: true}`."""
    state, name = _admin(request), request.path_params["name"]
    query = query_of(request)
    refuse_unknown(query, CLIENT_PARAMETERS if request.method == "DELETE" else LISTING_PARAMETERS)
    if request.method == "DELETE":
        body = await json_of(request, state.workspace.settings.max_body, {"ids", "all"})
        if len(body) != 1 or body.get("all", True) is not True:
            raise RookeryError(BAD_REQUEST, "which rows is not said", hint='{"ids": [c__id, …]}, or {"all": true}')
        work = partial(quarantine.remove, state.workspace, name, _ids(body))
        return JSONResponse({"removed": await anyio.to_thread.run_sync(work, limiter=state.control)})
    limit, offset = (
        _number(query, "limit", DEFAULT_LISTED_ROWS, MAX_LISTED_ROWS),
        _number(query, "offset", 0, MAX_OFFSET),
    )
    show = partial(quarantine.listing, state.workspace, name, limit, offset)
    return JSONResponse(await anyio.to_thread.run_sync(show, limiter=state.control))


async def replay_route(request: Request) -> Response:
    """`POST /v0/datasources/NAME/quarantine/replay`: all rows, `{ids}`, or `{rows: [{id, text}]}` mended."""
    state, name = _admin(request), request.path_params["name"]
    refuse_unknown(query_of(request), CLIENT_PARAMETERS)
    body = await json_of(request, state.workspace.settings.max_body, {"ids", "rows"})
    if len(body) > 1:
        raise RookeryError(BAD_REQUEST, "the body is `{ids: […]}`, `{rows: [{id, text}]}`, or nothing for all rows")
    mended = _mended(body) if "rows" in body else {}
    ids = list(mended) if "rows" in body else _ids(body)
    work = partial(replay, state.workspace, state.gateway, name, ids, mended)
    return JSONResponse((await anyio.to_thread.run_sync(work, limiter=state.control)).as_dict())


def _ids(body: dict[str, Any]) -> list[str] | None:
    if "ids" not in body:
        return None
    ids = body["ids"]
    if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids):
        raise RookeryError(BAD_REQUEST, "`ids` is a list of texts, the rows' `c__id`")
    return ids


def _mended(body: dict[str, Any]) -> dict[str, str]:
    rows, found = body["rows"], {}
    for row in rows if isinstance(rows, list) else [None]:
        if (
            not isinstance(row, dict)
            or set(row) != {"id", "text"}
            or not all(isinstance(v, str) for v in row.values())
        ):
            raise RookeryError(BAD_REQUEST, "`rows` is a list of objects with `id` and `text`, both texts")
        if row["id"] in found:
            raise RookeryError(BAD_REQUEST, f"row `{row['id'][:80]}` is given twice")
        found[row["id"]] = row["text"]
    return found


def _number(query: dict[str, str], name: str, default: int, most: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= most):
        raise RookeryError(BAD_REQUEST, f"`{name}` is a number from 0 to {most}")
    return int(text)


def routes() -> list[Route]:
    return [
        Route("/v0/datasources/{name}/quarantine", quarantine_route, methods=["GET", "DELETE"]),
        Route("/v0/datasources/{name}/quarantine/replay", replay_route, methods=["POST"]),
    ]
