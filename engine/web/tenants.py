"""Routes on tenants."""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from engine.control import tenants
from engine.errors import BAD_REQUEST, RookeryError
from engine.web.access import READ_METHODS, reads_all, require_admin
from engine.web.bodies import NoBody, TenantsBody, body_as
from engine.web.control import Report, control, in_thread, with_progress
from engine.web.requests import flag


async def tenants_route(request: Request) -> Response:
    """`GET /v0/tenants` lists tenants; `POST` with `{id | ids, placement}` adds them."""
    services = control(request)
    if request.method in READ_METHODS:
        listing = partial(tenants.listing, services.workspace, public=not reads_all(request.scope))
        return JSONResponse({"tenants": await in_thread(services, listing)})
    body = await body_as(TenantsBody, request, services.workspace.settings.max_body)
    if {"id", "ids"} <= body.model_fields_set:
        raise RookeryError(BAD_REQUEST, "set either `id` or `ids`, not both")
    if not body.ids and body.id is None:
        raise RookeryError(BAD_REQUEST, "`id` must be a non-empty string")
    ids = body.ids or [str(body.id)]

    def work(progress: Any) -> Any:
        return {"tenants": [p.as_dict() for p in tenants.add(services.workspace, ids, body.placement, progress)]}

    return await with_progress(request, services, work)


async def tenant_route(request: Request) -> Response:
    """`GET|DELETE /v0/tenants/ID`. `DELETE` has `purge`, and `allow` with names separated by commas."""
    reading = request.method in READ_METHODS
    services = control(request, *(() if reading else ("purge", "allow")))
    tenant = request.path_params["id"]
    if reading:
        show = partial(tenants.show, services.workspace, tenant, public=not reads_all(request.scope))
        return JSONResponse(await in_thread(services, show))
    await body_as(NoBody, request)
    purge = flag(request.query_params.get("purge"), False, "purge")
    if purge:
        require_admin(request.scope, "erase a tenant's rows")
    allow = [n for n in request.query_params.get("allow", "").split(",") if n]
    if allow and not purge:
        raise RookeryError(BAD_REQUEST, "`allow` has no effect without `purge`", hint="purge=true")

    def remove(report: Report) -> None:
        tenants.remove(services.workspace, tenant, purge=purge, allow=allow, progress=report)

    return await with_progress(request, services, remove)


def routes() -> list[Route]:
    return [
        Route("/v0/tenants", tenants_route, methods=["GET", "POST"]),
        Route("/v0/tenants/{id:path}", tenant_route, methods=["GET", "DELETE"]),
    ]
