"""The application: routes, middleware, the watch on the registry, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import anyio
import anyio.to_thread
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.control.deferred_views import deferred_of
from engine.control.health import Health
from engine.control.recovery import finish
from engine.errors import RookeryError
from engine.ingest.gateway import Gateway
from engine.ingest.staging_pool import StagingPool
from engine.query.executor import Queries
from engine.query.reader_queue import ReaderQueue
from engine.web import datasources, operations, pipes, project, quarantine, sql, tenants, tokens
from engine.web.errors import on_bug, on_http_exception, on_rookery_error
from engine.web.events import PATH, Events, EventsFastPath
from engine.web.future_bridge import FutureBridge
from engine.web.services import Services
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.access")
WATCH_SECONDS = 0.5
"""Interval between two looks at the registry, for what other servers changed."""
CONTROL_THREADS = 16


class AccessLog:
    """One line per request at level debug, without its query string: tokens travel there."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            took = round((time.perf_counter() - started) * 1000, 2)
            log.debug("request", method=scope["method"], path=_shown(scope["path"]), status=status, ms=took)


def _shown(path: str) -> str:
    """A path for the log. A token may be named by its text."""
    return "/v0/tokens/…" if path.startswith("/v0/tokens/") else path


async def _watch(workspace: Workspace, limiter: anyio.CapacityLimiter) -> None:
    """Take up what other processes changed, within a second."""
    while True:
        await anyio.sleep(WATCH_SECONDS)
        try:
            await anyio.to_thread.run_sync(workspace.refresh, limiter=limiter)
        except RookeryError as exc:
            log.warning("the workspace could not be refreshed", error=exc)


def _routes() -> list[Route]:
    """All routes. They are tried in order, so those that are called most come first."""
    resources = (pipes, sql, datasources, operations, quarantine, project, tenants, tokens)
    return [Route(PATH, Events(), methods=["POST"]), *(route for module in resources for route in module.routes())]


def create_app(workspace: Workspace) -> Starlette:
    """The ASGI application over an open workspace, which it closes at the end."""
    settings = workspace.settings

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        stages = StagingPool(workspace)
        services = Services(
            workspace=workspace,
            queries=Queries(workspace),
            gateway=Gateway(workspace, stages),
            limiter=anyio.CapacityLimiter(settings.readers * 2 + settings.writers * 2),
            control=anyio.CapacityLimiter(CONTROL_THREADS),
            # Streams hold handles already: they never queue behind requests that wait for one.
            streams=anyio.CapacityLimiter(settings.readers),
            replacing=anyio.Lock(),
            answers=FutureBridge(asyncio.get_running_loop()),
            turns=ReaderQueue(
                settings.readers, settings.reader_share, settings.max_concurrent, settings.borrow_timeout
            ),
            health=Health(workspace),
        )
        app.state.rookery = services
        await anyio.to_thread.run_sync(finish, workspace)
        await anyio.to_thread.run_sync(deferred_of, workspace)
        async with anyio.create_task_group() as group:
            if not workspace.warehouse.capabilities.embedded:
                group.start_soon(_watch, workspace, services.control)
            yield
            services.stopping = True
            group.cancel_scope.cancel()
        await anyio.to_thread.run_sync(services.queries.at_work.cancel_all)
        await anyio.to_thread.run_sync(services.gateway.close)
        await anyio.to_thread.run_sync(workspace.close)

    exposed = ["Server-Timing", "Retry-After", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"]
    exposed += ["X-Rookery-Ignored-Parameters"]
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(settings.cors_origins),
        allow_methods=["GET", "POST", "OPTIONS"],
        # Pages may send any header: what counts is the token, and no cookie is ever looked at.
        allow_headers=["*"],
        expose_headers=exposed,
        max_age=600,
    )
    app = Starlette(
        routes=_routes(),
        middleware=[
            *([Middleware(AccessLog)] if settings.log_level == "debug" else []),
            Middleware(EventsFastPath),
            cors,
        ],
        exception_handlers={RookeryError: on_rookery_error, HTTPException: on_http_exception, Exception: on_bug},
        lifespan=lifespan,
    )
    # A redirect would repeat the query string, and with it the token.
    app.router.redirect_slashes = False
    return app
