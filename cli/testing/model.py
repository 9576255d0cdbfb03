"""What a run of tests produces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cli.testing.values import Cell, Column
from engine.errors import Place, RookeryError

Sign = Literal[" ", "-", "+"]
Check = Literal["result", "isolation"]


@dataclass(frozen=True, slots=True)
class Call:
    """A request of a test."""

    endpoint: str | None
    sql: str | None
    params: Mapping[str, str | list[str]]
    """Parameters as strings; an array is a list of strings."""

    def __str__(self) -> str:
        """The call for a message."""
        texts = {k: v if isinstance(v, str) else f"[{', '.join(v)}]" for k, v in self.params.items()}
        params = " ".join(f"{name}={text}" for name, text in texts.items())
        what = f"endpoint {self.endpoint}" if self.endpoint else " ".join((self.sql or "").split())
        return f"{what} {params}".strip()


@dataclass(frozen=True, slots=True)
class Answer:
    """The response to a call: rows, or an error."""

    columns: Sequence[Column] = ()
    rows: Sequence[Mapping[str, Any]] = ()
    """Rows as parsed from JSON, with decimals instead of floating-point numbers."""
    error: RookeryError | None = None
    seconds: float = 0.0
    """How long the query took in the engine."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How a result differs from what a test expects."""

    message: str
    hint: str | None = None
    columns: Sequence[str] = ()
    lines: Sequence[tuple[Sign, Mapping[str, Cell]]] = ()
    """Rows that are equal, only expected (-), or only in the result (+)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one test in one arrangement of tenants."""

    name: str
    place: Place
    check: Check
    arrangement: str
    """How the tenants were placed: `pooled`, `tables` or `as declared`; `all` if isolation holds in all of them."""
    call: Call
    tenant: str | None
    seconds: float
    failure: Difference | None = None
    updated: bool = False
    """Whether the expected rows were written from the result."""


@dataclass(slots=True)
class Report:
    """The outcomes of a run."""

    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failures(self) -> list[Outcome]:
        return [o for o in self.outcomes if o.failure]

    @property
    def tests(self) -> int:
        """Number of tests; each may have several outcomes."""
        return len({str(o.place) for o in self.outcomes})
