"""Which appends of a batch have rows of certain tenants. They are found in the batch's stage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.errors import RookeryError
from engine.warehouse.port import Warehouse


@dataclass(frozen=True, slots=True)
class StagedAppends:
    """The appends of a batch in its stage. Every row of a stage with several appends was stored."""

    table: str
    """The stage as SQL."""
    tenant: str
    """The SQL of the tenant's id as a string."""
    condition: str
    """The SQL condition of the rows that were stored."""
    ranges: tuple[tuple[int, int], ...]
    """The rows of each append: the number of the first, and the number after the last."""

    def with_rows_of(self, warehouse: Warehouse, tenants: Iterable[str]) -> frozenset[int] | None:
        """The positions of appends with rows of the tenants. Never raises: None if this cannot be determined."""
        query = (
            f"SELECT DISTINCT if(has({{t:Array(String)}}, _rk_t), {position_of('_rk_i', self.ranges)}, 0) FROM "
            f"(SELECT rowNumberInAllBlocks() AS _rk_i, {self.tenant} AS _rk_t FROM {self.table} "
            f"WHERE {self.condition})"
        )
        try:
            # The numbers of rows are only correct with one thread.
            result = warehouse.query(query, {"t": [*sorted(tenants)]}, {"max_threads": 1})
        except RookeryError:
            # The rows are in landing, so what follows must not fail because of this.
            return None
        return frozenset(int(position) - 1 for (position,) in result.rows if int(position))


def position_of(number: str, ranges: Iterable[tuple[int, int]]) -> str:
    """The SQL of the position, from 1, of the range that contains a row's number; 0 if there is none."""
    starts, stops = zip(*ranges, strict=True)
    inside = f"(_rk_a, _rk_b) -> {number} >= _rk_a AND {number} < _rk_b"
    return f"arrayFirstIndex({inside}, {[*starts]}, {[*stops]})"
