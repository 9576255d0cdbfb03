"""What every route needs: the workspace and the services on it, made once per application."""

from __future__ import annotations

from dataclasses import dataclass

import anyio
from starlette.requests import Request

from engine.control.health import Health
from engine.ingest.gateway import Gateway
from engine.query.executor import Queries
from engine.query.reader_queue import ReaderQueue
from engine.web.future_bridge import FutureBridge
from engine.workspace.workspace import Workspace


@dataclass(slots=True)
class Services:
    """The services of a running application."""

    workspace: Workspace
    queries: Queries
    gateway: Gateway
    limiter: anyio.CapacityLimiter
    control: anyio.CapacityLimiter
    streams: anyio.CapacityLimiter
    replacing: anyio.Lock
    answers: FutureBridge
    turns: ReaderQueue
    health: Health
    stopping: bool = False


def services_of(request: Request) -> Services:
    found: Services = request.app.state.rookery
    return found
