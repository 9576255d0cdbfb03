"""What an ingest thread hands over to the fan-out: a batch in landing, and how its blocks are recognized."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reach:
    """Whose tables have the rows of a stored batch."""

    behind: frozenset[str] | None
    """Tenants whose tables miss rows, even if they have none in the batch; None means possibly all tenants."""
    appends: frozenset[int] | None = None
    """Positions of the batch's appends with rows of these tenants; None if they are not known."""

    def includes(self, append: AppendOfBatch) -> bool:
        """Whether an append's rows can be read from their tenants' tables."""
        if self.appends is not None:
            return append.position not in self.appends
        return self.behind is not None and append.bound_tenant not in {None, *self.behind}


@dataclass(frozen=True, slots=True)
class AppendOfBatch:
    """An append as a part of its batch."""

    bound_tenant: str | None = None
    """The tenant that the append's token is bound to."""
    position: int = 0
    """Its position among the appends of the batch, from 0."""


ONLY_APPEND = AppendOfBatch()
EVERYWHERE, NOWHERE = Reach(frozenset(), frozenset()), Reach(None)


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """The delivery of a stored batch to its tenants' tables."""

    by_views: Reach
    """Whose tables have the rows that views deliver with the INSERT."""
    by_worker: Future[Reach] | None = None
    """Whose nests have the rows that the fan-out worker delivers later; None without a worker."""

    def visible_to(self, append: AppendOfBatch) -> Future[bool] | None:
        """Becomes true when an append's rows can be read, or false if a table has refused them; None if they can be
        read now.
        """
        if self.by_views.includes(append) and self.by_worker is None:
            return None
        visible = Future[bool]()
        if self.by_worker is None or not self.by_views.includes(append):
            visible.set_result(False)
        else:
            self.by_worker.add_done_callback(lambda done: visible.set_result(done.result().includes(append)))
        return visible


DELIVERED = Delivery(EVERYWHERE)


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
    appends: tuple[tuple[int, int], ...]
    """The rows of each append in the stage; see `StagedAppends.ranges`."""
    rows: int
    """Rows that were stored, of all tenants."""
    size: int
    """Bytes of the stage; 0 without one."""
    at: float
    """When it was stored, in seconds since 1970."""
    release: Callable[[], None]
    """Returns the stage to the pool."""
    reach: Future[Reach]
    """Set when the rows are in their nests, or some nests have refused them."""


@dataclass(frozen=True, slots=True)
class BatchBlocks:
    """How the blocks of one batch are recognized in its datasource."""

    datasource: str
    batch: str
    count_query: str = ""
    """A SELECT that counts its rows by tenant in the stage, including rows past a TTL; empty without a stage."""
    after: int | None = None
    """The newest block before the batch, for a datasource whose rows do not contain the id of their batch."""
