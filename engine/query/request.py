"""What a caller requests, apart from the SQL or the name of the endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.observe.timer import Timer
from engine.query.running import Ticket
from engine.query.trace import Trace
from engine.tokens.claims import Claims
from engine.warehouse.port import Format


@dataclass(frozen=True, slots=True)
class QueryRequest:
    """One query of one caller. It is the same for endpoints and for ad-hoc SQL."""

    claims: Claims
    """The verified token."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Parameters that the caller sent, not yet converted to their types."""
    format: Format = Format.JSON
    """The format of the response."""
    impersonated_tenant: str | None = None
    """The tenant as which an admin runs the query; None for the token's own tenant."""
    timer: Timer = field(default_factory=Timer)
    """Collects the time of each stage."""
    ticket: Ticket = field(default_factory=Ticket)
    """Cancels the query."""
    trace: Trace | None = None
    """Records how the query is composed and run, if it is to be explained."""
