"""The application: routes, middleware, the task that watches the registry, and the shutdown."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp

from engine.control.deferred_views import deferred_of
from engine.control.health import Health
from engine.control.recovery import finish
from engine.control.unfinished_tenants import unfinished_tenants_of
from engine.errors import RookeryError
from engine.ingest.formats.parquet_process import Limits
from engine.ingest.gateway import Gateway
from engine.ingest.staging_pool import StagingPool
from engine.observe import events as log_events
from engine.query.executor import Queries
from engine.query.reader_queue import ReaderQueue
from engine.settings import Settings
from engine.web import (
    backup,
    datasources,
    documentation,
    operations,
    pipes,
    project,
    quarantine,
    sql,
    tenants,
    tokens,
)
from engine.web.access import guarded
from engine.web.errors import on_bug, on_http_exception, on_rookery_error
from engine.web.events import PATH, Events, EventsFastPath
from engine.web.future_bridge import FutureBridge
from engine.web.parquet_reader import PROCESSES, ParquetReader
from engine.web.request_log import LoggedRequests, RequestLog, paths_by_endpoint
from engine.web.services import Services
from engine.web.streaming import UnsentMemory
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.web")
WATCH_SECONDS = 0.5
"""Interval at which the registry is read for changes by other servers."""
CONTROL_THREADS = 16
"""Number of threads that run control work at the same time, and of threads for changes, of which one runs and the
others wait.
"""


class Application(Starlette):
    """Starlette with the log of requests around everything, so that it also sees the responses to bugs."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        super().__init__(**options)
        self.request_log = RequestLog(settings)

    def build_middleware_stack(self) -> ASGIApp:
        routes = [route for route in self.routes if isinstance(route, Route)]
        return LoggedRequests(super().build_middleware_stack(), self.request_log, paths_by_endpoint(routes))


async def _watch(workspace: Workspace, limiter: anyio.CapacityLimiter) -> None:
    """Bring the snapshot up to date with changes by other processes, within a second."""
    while True:
        await anyio.sleep(WATCH_SECONDS)
        try:
            await anyio.to_thread.run_sync(workspace.refresh, limiter=limiter)
        except RookeryError as exc:
            log.warning("the workspace could not be refreshed", error=exc)


def _routes(events: Events) -> list[Route]:
    """All routes, behind the check of the token. The order matters to Starlette: frequent ones come first."""
    resources = (pipes, sql, datasources, operations, quarantine, project, tenants, tokens, backup, documentation)
    found = [Route(PATH, events, methods=["POST"]), *(route for module in resources for route in module.routes())]
    return guarded(found)


def _services(workspace: Workspace) -> Services:
    """The services of an application. Must be called on its event loop."""
    settings = workspace.settings
    # In addition to the threads that wait for the processes of Parquet files.
    uploads = anyio.CapacityLimiter(settings.writers + 2 * PROCESSES)
    return Services(
        workspace=workspace,
        queries=Queries(workspace),
        gateway=Gateway(workspace, StagingPool(workspace)),
        limiter=anyio.CapacityLimiter(settings.readers * 2 + settings.writers * 2),
        uploads=uploads,
        control=anyio.CapacityLimiter(CONTROL_THREADS),
        probes=anyio.CapacityLimiter(1),
        changes=anyio.CapacityLimiter(CONTROL_THREADS),
        # Streams already hold database handles. With a separate limiter, they never wait for a thread behind requests
        # that wait for a handle.
        streams=anyio.CapacityLimiter(settings.readers),
        unsent=UnsentMemory(),
        replacing=WeakValueDictionary(),
        spooled=Counter(),
        appended=FutureBridge(asyncio.get_running_loop()),
        reader_queue=ReaderQueue(
            settings.readers, settings.reader_share, settings.max_concurrent, settings.borrow_timeout
        ),
        parquet_reader=ParquetReader(Limits(settings.max_parquet_memory, settings.max_parquet_bytes), uploads),
        health=Health(workspace),
    )


def _middleware(settings: Settings, events: Events) -> list[Middleware]:
    exposed = ["Server-Timing", "Retry-After", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"]
    exposed += ["X-Rookery-Ignored-Parameters", "X-Request-Id"]
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(settings.cors_origins),
        allow_methods=["GET", "POST", "OPTIONS"],
        # Pages may send any header, because only the token grants access, and cookies are never read.
        allow_headers=["*"],
        expose_headers=exposed,
        max_age=600,
    )
    return [Middleware(EventsFastPath, events=events), cors]


def create_app(workspace: Workspace) -> Application:
    """The ASGI application over an open workspace, which it closes when it shuts down."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        services = app.state.rookery = _services(workspace)
        await anyio.to_thread.run_sync(finish, workspace)
        await anyio.to_thread.run_sync(deferred_of, workspace)
        await anyio.to_thread.run_sync(unfinished_tenants_of(workspace).complete)
        async with anyio.create_task_group() as group:
            if not workspace.warehouse.capabilities.embedded:
                group.start_soon(_watch, workspace, services.control)
            yield
            services.stopping = True
            log_events.note("stopping")
            group.cancel_scope.cancel()
        # The order matters: the gateway must store what it accepted before the database is closed.
        await anyio.to_thread.run_sync(services.queries.running.cancel_all)
        await anyio.to_thread.run_sync(services.gateway.close)
        await anyio.to_thread.run_sync(workspace.close)

    appender = Events()
    app = Application(
        workspace.settings,
        routes=_routes(appender),
        middleware=_middleware(workspace.settings, appender),
        exception_handlers={RookeryError: on_rookery_error, HTTPException: on_http_exception, Exception: on_bug},
        lifespan=lifespan,
    )
    app.state.settings = workspace.settings
    # A redirect would put the query string, which may contain a token, into another URL.
    app.router.redirect_slashes = False
    return app
