"""Shows and removes one deployed resource, for the routes on pipes and on datasources."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from engine.control import resources
from engine.web.access import READ_METHODS
from engine.web.bodies import NoBody, body_as
from engine.web.control import control, in_thread
from engine.web.requests import flag


async def resource(request: Request, kind: str, name: str) -> Response:
    """`GET` shows a resource of a kind (`pipe` or `datasource`); `DELETE` with `force` and `dry_run` removes it."""
    flags = ("force", "dry_run") if request.method == "DELETE" else ()
    services = control(request, *flags)
    if request.method in READ_METHODS:
        return JSONResponse(await in_thread(services, partial(resources.show, services.workspace, kind, name)))
    await body_as(NoBody, request)
    options = {k: flag(request.query_params.get(k), False, k) for k in flags}
    build = services.workspace.current.build
    removed = await in_thread(
        services, partial(resources.remove, services.workspace, kind, name, **options), changes=True
    )
    unfilled = resources.unfilled(build, removed)
    more = {"unfilled": unfilled} if unfilled else {}
    return JSONResponse({"removed": removed, "dry_run": options["dry_run"], **more})
