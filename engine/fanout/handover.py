"""What the gateway hands over: a batch that is in landing, and the stage that still holds its rows."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class CommittedBatch:
    """A batch in landing.

    `values` are the SQL of landing's `columns` over `table`, `tenant` that of the tenant's text, `condition` tells
    which rows of the table were stored. `release` gives the table back. `visible` becomes true when the rows are in
    their nests, false when a nest has failed to take them for now.
    """

    batch: str
    datasource: str
    table: str
    values: str
    tenant: str
    condition: str
    columns: tuple[str, ...]
    rows: int
    size: int
    at: float
    release: Callable[[], None]
    visible: Future[bool]
