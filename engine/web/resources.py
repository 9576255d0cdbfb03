"""Shows and removes one deployed resource, for the routes on pipes and on datasources."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from engine.control import resources
from engine.query import authorize
from engine.web.bodies import NoBody, body_as
from engine.web.control import READ_METHODS, in_thread
from engine.web.known_fields import check_query
from engine.web.requests import flag, head_of
from engine.web.services import services_of


async def resource(request: Request, kind: str, name: str) -> Response:
    """`GET` shows a resource of a kind (`pipe` or `datasource`); `DELETE` with `force` and `dry_run` removes it.

    Raises RK4003 for non-admin tokens.
    """
    services = services_of(request)
    authorize.authenticate(services.workspace, head_of(request.scope).token()).require_admin()
    flags = ("force", "dry_run") if request.method == "DELETE" else ()
    check_query(request, flags)
    if request.method in READ_METHODS:
        return JSONResponse(await in_thread(services, partial(resources.show, services.workspace, kind, name)))
    await body_as(NoBody, request)
    options = {k: flag(request.query_params.get(k), False, k) for k in flags}
    removed = await in_thread(services, partial(resources.remove, services.workspace, kind, name, **options))
    return JSONResponse({"removed": removed, "dry_run": options["dry_run"]})
