"""Routes on quarantine. Only admins may call them, because a quarantine has rows of all tenants."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from engine.errors import BAD_REQUEST, RookeryError
from engine.ingest import quarantine
from engine.ingest.replay import replay
from engine.web.append_options import CLIENT_PARAMETERS, LISTING_PARAMETERS, refuse_unknown
from engine.web.bodies import ReplayBody, SelectedRowsBody, body_as
from engine.web.control import in_thread
from engine.web.requests import head_of
from engine.web.services import services_of

DEFAULT_LISTED_ROWS, MAX_LISTED_ROWS = 100, 10_000
MAX_OFFSET = 1 << 62
"""Maximum number of rows to skip; the engine reads it as a 64-bit integer."""


async def quarantine_route(request: Request) -> Response:
    """`GET /v0/datasources/NAME/quarantine?limit=&offset=`; `DELETE` with `{ids}` or `{all: true}`."""
    services, name = services_of(request), request.path_params["name"]
    query = head_of(request.scope).query()
    refuse_unknown(query, CLIENT_PARAMETERS if request.method == "DELETE" else LISTING_PARAMETERS)
    if request.method == "DELETE":
        body = await body_as(SelectedRowsBody, request, services.workspace.settings.max_body)
        # An empty list of ids must not mean all rows, so there is a separate key for all rows.
        if len(body.model_fields_set) != 1 or ("all" in body.model_fields_set and body.all is not True):
            raise RookeryError(
                BAD_REQUEST, "specify `ids`, or `all: true`", hint='{"ids": [c__id, …]}, or {"all": true}'
            )
        work = partial(quarantine.remove, services.workspace, name, _ids(body))
        return JSONResponse({"removed": await in_thread(services, work)})
    limit = _number(query, "limit", DEFAULT_LISTED_ROWS, MAX_LISTED_ROWS)
    offset = _number(query, "offset", 0, MAX_OFFSET)
    show = partial(quarantine.listing, services.workspace, name, limit, offset)
    return JSONResponse(await in_thread(services, show))


async def replay_route(request: Request) -> Response:
    """`POST /v0/datasources/NAME/quarantine/replay`: all rows, `{ids}`, or `{rows: [{id, text}]}` corrected."""
    services, name = services_of(request), request.path_params["name"]
    refuse_unknown(head_of(request.scope).query(), CLIENT_PARAMETERS)
    body = await body_as(ReplayBody, request, services.workspace.settings.max_body)
    if len(body.model_fields_set) > 1:
        raise RookeryError(
            BAD_REQUEST, "the body must be `{ids: […]}` or `{rows: [{id, text}]}`, or empty for all rows"
        )
    corrected = _corrected(body)
    ids = list(corrected) if "rows" in body.model_fields_set else _ids(body)
    work = partial(replay, services.workspace, services.gateway, name, ids, corrected)
    return JSONResponse((await in_thread(services, work)).as_dict())


def _ids(body: SelectedRowsBody | ReplayBody) -> list[str] | None:
    """The selected rows; None for all. Raises RK4009 for `null`."""
    if "ids" in body.model_fields_set and body.ids is None:
        raise RookeryError(BAD_REQUEST, "`ids` must be a list of strings, the rows' `c__id`")
    return body.ids


def _corrected(body: ReplayBody) -> dict[str, str]:
    """The corrected text of rows by row id. Raises RK4009 for a row that is listed twice."""
    if "rows" in body.model_fields_set and body.rows is None:
        raise RookeryError(BAD_REQUEST, "`rows` must be a list of objects with `id` and `text`, both strings")
    corrected: dict[str, str] = {}
    for row in body.rows or ():
        if row.id in corrected:
            raise RookeryError(BAD_REQUEST, f"row `{row.id[:80]}` is listed twice")
        corrected[row.id] = row.text
    return corrected


def _number(query: dict[str, str], name: str, default: int, maximum: int) -> int:
    """A number in the query. Raises RK4009."""
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= maximum):
        raise RookeryError(BAD_REQUEST, f"`{name}` must be a number from 0 to {maximum}")
    return int(text)


def routes() -> list[Route]:
    return [
        Route("/v0/datasources/{name}/quarantine", quarantine_route, methods=["GET", "DELETE"]),
        Route("/v0/datasources/{name}/quarantine/replay", replay_route, methods=["POST"]),
    ]
