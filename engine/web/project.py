"""Routes on the project: push, materialize, and the description of the workspace."""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from engine.control import materialize, push
from engine.control.pushed_files import files_of
from engine.web.access import reads_all
from engine.web.bodies import MaterializeBody, PushBody, body_as
from engine.web.control import Report, control, in_thread, with_progress


async def push_route(request: Request) -> Response:
    """`POST /v0/push`: compare the files with the deployed ones and, without `dry_run`, apply the difference."""
    services = control(request)
    body = await body_as(PushBody, request, services.workspace.settings.max_body)
    options = push.PushOptions(
        dry_run=body.dry_run,
        prune=body.prune,
        allow=frozenset(body.allow),
        only=frozenset(body.only),
        with_dependencies=body.with_dependencies,
        skip_backfill=frozenset(body.skip_backfill),
    )
    # Checked before the response begins: with progress, its status is sent before the work ends.
    sources = files_of(body.sent_files())

    as_dict = partial(push.PushResult.as_dict, public=not reads_all(request.scope))

    def work(report: Report) -> Any:
        def announce(result: push.PushResult) -> None:
            report.plan(partial(as_dict, result))

        return as_dict(push.push(services.workspace, sources, options, report, announce))

    return await with_progress(request, services, work)


async def materialize_route(request: Request) -> Response:
    """`POST /v0/materialize`: propose the files of a materialized pipe and its target, without changing anything."""
    services = control(request)
    body = await body_as(MaterializeBody, request, services.workspace.settings.max_body)
    proposed = materialize.MaterializeRequest(body.pipe, body.target, body.node, body.per_tenant)
    work = partial(materialize.propose, services.workspace, files_of(body.sent_files()), proposed)
    return JSONResponse((await in_thread(services, work, changes=True)).as_dict())


async def workspace_route(request: Request) -> Response:
    """`GET /v0/workspace`: name, version and sizes of the workspace."""
    workspace = control(request).workspace
    snapshot, capabilities = workspace.current, workspace.warehouse.capabilities
    return JSONResponse(
        {
            "name": workspace.name,
            "version": snapshot.version,
            "timezone": workspace.zone,
            "engine": {"version": capabilities.version, "embedded": capabilities.embedded},
            "datasources": len(snapshot.build.datasources),
            "pipes": len(snapshot.build.pipes),
            "tenants": len(snapshot.tenants),
        }
    )


def routes() -> list[Route]:
    return [
        Route("/v0/workspace", workspace_route),
        Route("/v0/push", push_route, methods=["POST"]),
        Route("/v0/materialize", materialize_route, methods=["POST"]),
    ]
