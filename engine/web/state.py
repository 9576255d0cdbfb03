"""What every route needs: the workspace and the services on it, made once per application."""

from __future__ import annotations

from dataclasses import dataclass

import anyio
from starlette.requests import Request

from engine.control.health import Health
from engine.plan.state import Workspace
from engine.serve.gateway import Gateway
from engine.serve.query import Queries
from engine.serve.turns import Turns
from engine.web.answers import Answers


@dataclass(slots=True)
class State:
    """The services of a running application."""

    workspace: Workspace
    queries: Queries
    gateway: Gateway
    limiter: anyio.CapacityLimiter
    control: anyio.CapacityLimiter
    streams: anyio.CapacityLimiter
    replacing: anyio.Lock
    answers: Answers
    turns: Turns
    health: Health
    stopping: bool = False


def state_of(request: Request) -> State:
    found: State = request.app.state.rookery
    return found
