"""Routes for operators: health, fan-out, doctor and metrics."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from engine.control import doctor, fanout_status, scrape
from engine.errors import RookeryError
from engine.observe import metrics
from engine.web.bodies import NoBody, RepairBody, body_as
from engine.web.control import Report, control, in_thread, with_progress
from engine.web.requests import flag
from engine.web.services import services_of


async def live(_request: Request) -> Response:
    """`GET /live`: the process responds."""
    return JSONResponse({"live": True})


async def ready(request: Request) -> Response:
    """`GET /ready`: the database responds, its disk has space, readers are free, and the server is not stopping."""
    services = services_of(request)
    if services.stopping:
        return JSONResponse({"ready": False, "reason": "stopping"}, 503)
    # If half of the readers are stuck, a load balancer should send queries to other servers.
    stuck, readers = services.queries.running.stuck(), services.workspace.settings.readers
    if 2 * stuck >= readers:
        problem = f"{stuck} of {readers} readers run queries that did not stop at their time limit"
        return JSONResponse({"ready": False, "reason": problem, "stuck_readers": stuck}, 503)
    try:
        reason = await anyio.to_thread.run_sync(services.health.reason, limiter=services.probes)
    except RookeryError as exc:
        reason = exc.message
    return JSONResponse({"ready": False, "reason": reason}, 503) if reason else JSONResponse({"ready": True})


async def fanout_route(request: Request) -> Response:
    """`GET /v0/fanout`: how far the tenants' tables are behind landing."""
    services = control(request)
    fanout = await in_thread(services, partial(fanout_status.status, services.workspace))
    # `in_step` and `strays` are the old names, kept for one release.
    datasources = [{**d, "in_sync": d["in_step"], "lagging": d["strays"]} for d in fanout["datasources"]]
    return JSONResponse({**fanout, "datasources": datasources})


async def fanout_retry(request: Request) -> Response:
    """`POST /v0/fanout/retry`: retry failing tenants now."""
    services = control(request)
    await body_as(NoBody, request)
    return JSONResponse(await in_thread(services, partial(fanout_status.retry, services.workspace)))


async def doctor_route(request: Request) -> Response:
    """`GET /v0/doctor` examines; `deep=true` also compares rows. `POST`, with `allow`, delivers missing rows."""
    services = control(request, *(() if request.method == "POST" else ("deep",)))
    if request.method == "POST":
        body = await body_as(RepairBody, request)
        return await with_progress(request, services, partial(doctor.repair, services.workspace, body.allow))
    deep = flag(request.query_params.get("deep"), False, "deep")

    def examine(report: Report) -> Any:
        return doctor.examine(services.workspace, deep=deep, progress=report).as_dict()

    return await with_progress(request, services, examine)


async def metrics_route(request: Request) -> Response:
    """`GET /metrics`: metrics for Prometheus."""
    services = control(request)
    load = scrape.Load(
        services.reader_queue.usage(),
        services.gateway.waiting_bytes,
        services.gateway.waiting_appends,
        services.queries.running.stuck(),
    )
    request.app.request_log.metrics.keep(services.workspace.current.build.endpoints)
    text = await in_thread(services, partial(scrape.exposition, services.workspace, load))
    return Response(text, media_type=metrics.EXPOSITION)


def routes() -> list[Route]:
    return [
        Route("/live", live),
        Route("/ready", ready),
        Route("/metrics", metrics_route),
        Route("/v0/fanout", fanout_route),
        Route("/v0/fanout/retry", fanout_retry, methods=["POST"]),
        Route("/v0/doctor", doctor_route, methods=["GET", "POST"]),
    ]
