"""What an ingest thread hands over to the fan-out: a batch in landing, and how its blocks are recognized."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class CommittedBatch:
    """A batch in landing."""

    batch: str
    datasource: str
    table: str
    """The stage as SQL; empty if its rows must be read from landing."""
    values: str
    """The SQL of the values of `columns`, over `table`."""
    tenant: str
    """The SQL of the tenant's id as a string, over `table`."""
    condition: str
    """The SQL condition of the rows of `table` that were stored."""
    columns: tuple[str, ...]
    rows: int
    """Rows that were stored, of all tenants."""
    size: int
    """Bytes of the stage; 0 without one."""
    at: float
    """When it was stored, in seconds since 1970."""
    release: Callable[[], None]
    """Returns the stage to the pool."""
    visible: Future[bool]
    """Set to true when the rows are in their nests, or to false if a nest has refused them."""


@dataclass(frozen=True, slots=True)
class BatchBlocks:
    """How the blocks of one batch are recognized in its datasource."""

    datasource: str
    batch: str
    count_query: str = ""
    """A SELECT that counts its rows by tenant in the stage, including rows past a TTL; empty without a stage."""
    after: int | None = None
    """The newest block before the batch, for a datasource whose rows do not contain the id of their batch."""
