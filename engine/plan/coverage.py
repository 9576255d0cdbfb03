"""Decides whether a source still has all rows from which a target was computed.

A target consumes whole blocks of its source: those that existed when its view was created, which are recorded then
(`Consumed`), and all later ones. A source is complete if the recorded blocks still have the same number of rows, and
if no block number after them is missing. Without proof, rows count as lost: inserts record nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.plurals import counted
from engine.schema import Name, Schema, Table, View, declared_ttl
from engine.warehouse.port import Warehouse
from engine.warehouse.registry import Registry

COVERAGE_KIND = "coverage"
SLACK_BLOCKS = 3
"""Consecutive block numbers that may be missing: a repeated insert uses up a number without storing anything."""


@dataclass(frozen=True, slots=True)
class Consumed:
    """The rows from which a view's target was computed, at the time of the record."""

    upto: int = 0
    """The newest block of the source."""
    rows: int = 0
    """Rows of the source in blocks up to it."""
    lost: str | None = None
    """Why the source had already lost some of these rows by then."""
    since: int = 0
    """The last block that went through an earlier query of the view. Those rows cannot be recomputed."""

    def as_dict(self) -> dict[str, Any]:
        later = {"since": self.since} if self.since else {}
        return {"upto": self.upto, "rows": self.rows, "lost": self.lost, **later}

    @staticmethod
    def of(body: Mapping[str, Any]) -> Consumed:
        return Consumed(int(body["upto"]), int(body["rows"]), body["lost"], int(body.get("since", 0)))


EARLIER = "rows were made by an earlier query of the pipe, and kept"
"""`Consumed.lost` of a target that kept the rows of an earlier query. It is stored: never change it."""


class Coverage:
    """Compares records with the sources. Results are cached, so use a new object for each plan or check."""

    def __init__(self, warehouse: Warehouse, registry: Registry, live: Schema) -> None:
        self._warehouse = warehouse
        self._registry = registry
        self._live = live
        self._records: dict[str, Consumed] | None = None
        self._reasons: dict[tuple[Name, Consumed], str | None] = {}
        self._extents: dict[Name, tuple[int, int, int]] = {}

    def again(self, *, read_records: bool = False) -> Coverage:
        """A new object that compares the same records, or the current ones, with what the sources have now."""
        fresh = Coverage(self._warehouse, self._registry, self._live)
        if not read_records:
            fresh._records = self._all_records()
        return fresh

    def why_incomplete(self, view: View) -> str | None:
        """Why a view's source may have lost rows from which its target was computed; None if it has all of them."""
        source = view.log or view.source
        record = self._record(view.name)
        if record.lost is not None:
            return record.lost
        key = (source, record)
        if key not in self._reasons:
            self._reasons[key] = self._find_loss(source, record)
        return self._reasons[key]

    def superseded(self, view: View) -> int | None:
        """The last block that went through an earlier query of a view; None if its target has no such rows."""
        record = self._record(view.name)
        return record.since if record.lost == EARLIER else None

    def consumed(self, view: View) -> Consumed:
        """The record of a target that is created now. The view lock must be held."""
        _, newest, rows = self._extent(view.log or view.source)
        return Consumed(newest, rows)

    def continued(self, view: View) -> Consumed:
        """The record of a target that keeps the rows of an earlier query. The view lock must be held."""
        _, newest, rows = self._extent(view.log or view.source)
        return Consumed(newest, rows, EARLIER, newest)

    def renew(self, views: Iterable[View], *, repeated: bool = False) -> None:
        """Record how much views have received by now, so that a later removal of rows is noticed.

        A loss that is found stays recorded until the target is rebuilt. After `repeated` inserts, missing block
        numbers are not a loss.
        """
        bodies = {}
        for view in views:
            before = self._record(view.name)
            source = view.log or view.source
            if before.lost is None:
                why = self._find_loss(source, before, check_numbers=not repeated)
                after = Consumed(before.upto, before.rows, why) if why is not None else self.consumed(view)
                if after != before:
                    bodies[str(view.name)] = after.as_dict()
        self._registry.write(COVERAGE_KIND, bodies)

    def _record(self, view: Name) -> Consumed:
        return self._all_records().get(str(view), Consumed())

    def _all_records(self) -> dict[str, Consumed]:
        if self._records is None:
            self._records = {n: Consumed.of(b) for n, b in self._registry.read(COVERAGE_KIND).items()}
        return self._records

    def _find_loss(self, source: Name, record: Consumed, *, check_numbers: bool = True) -> str | None:
        """Why a source may have lost rows since a record; None if it has all of them."""
        table = self._live.tables.get(source)
        if table is None:
            return f"{source} is gone"
        lowest, newest, rows = self._extent(source)
        if not rows:
            return f"{source} is empty"
        # Merges remove rows, so counts do not prove anything. Only a TTL can lose the rows that merges keep.
        if not _keeps_rows(table):
            return f"{source} has a TTL ({declared_ttl(table.ttl)}), so rows may have expired" if table.ttl else None
        if newest < record.upto:
            return f"the newest blocks of {source} are gone"
        if record.rows:
            kept = self._rows(source, record.upto)
            if kept < record.rows:
                return f"{source} has lost {counted(record.rows - kept, 'row')} since then"
        # Nothing was added since the record, so the counts above are the whole proof.
        if newest == record.upto:
            return None
        if table.ttl:
            return f"{source} has a TTL ({declared_ttl(table.ttl)}), so rows may have expired"
        if self._copies_all(table, rows):
            return None
        # The engine numbers blocks from 1, and a target without a record was computed from all of them.
        if check_numbers and not record.upto and lowest > 1:
            return f"the first block of {source} is gone"
        if check_numbers and self._widest_hole(source, record.upto) > SLACK_BLOCKS:
            return f"blocks of {source} are gone"
        return None

    def _copies_all(self, copy: Table, rows: int) -> bool:
        """Whether a nest copy has as many rows as landing has of its tenant, and landing keeps its rows."""
        mark = copy.mark
        if mark is None or mark.tenant is None or not copy.constraints:
            return False
        landing = self._live.tables.get(Name(mark.workspace, copy.name.name))
        if landing is None or landing.ttl or not _keeps_rows(landing):
            return False
        of_tenant = " AND ".join(expression for _, expression in copy.constraints)
        count = self._warehouse.query(f"SELECT count() FROM {landing.name.sql()} WHERE {of_tenant}")
        return int(count.rows[0][0]) == rows

    def _extent(self, source: Name) -> tuple[int, int, int]:
        """The lowest and the highest block number of a table, and its number of rows."""
        if source not in self._extents:
            blocks = "min(_block_number), max(_block_number)"
            ((lowest, newest, rows),) = self._warehouse.query(f"SELECT {blocks}, count() FROM {source.sql()}").rows
            self._extents[source] = (int(lowest), int(newest), int(rows))
        return self._extents[source]

    def _rows(self, source: Name, upto: int) -> int:
        count = self._warehouse.query(f"SELECT count() FROM {source.sql()} WHERE _block_number <= {upto}")
        return int(count.rows[0][0])

    def _widest_hole(self, source: Name, after: int) -> int:
        """The longest run of missing block numbers after a block."""
        widest = self._warehouse.query(
            f"SELECT max(b - p - 1) FROM (SELECT b, lagInFrame(b, 1, toUInt64({after})) OVER (ORDER BY b ASC "
            "ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS p FROM "
            f"(SELECT DISTINCT toUInt64(_block_number) AS b FROM {source.sql()} WHERE _block_number > {after}))"
        )
        return int(widest.rows[0][0])


def _keeps_rows(table: Table) -> bool:
    """Whether a table's engine keeps every row, so that counts can be compared. Other engines merge rows."""
    return table.engine.partition("(")[0] == "MergeTree"
