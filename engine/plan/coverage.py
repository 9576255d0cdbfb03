"""Whether a source still has everything that a target was made from.

A target consumes its source's blocks in full: those that were there when its view was made, which are recorded then
(`Consumed`), and all that came later. So the source is complete if the recorded blocks have as many rows as then and
those after them show no hole. What cannot be shown counts as gone: nothing is written per insert to know better.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.schema import Name, Schema, Table, View
from engine.warehouse.port import Warehouse
from engine.warehouse.registry import Registry

COVERAGE_KIND = "coverage"
SLACK_BLOCKS = 3
"""Consecutive block numbers that may be missing: an insert that is repeated uses up a number and stores nothing."""


@dataclass(frozen=True, slots=True)
class Consumed:
    """What a view's target has been made from when it was recorded: the source's `rows` in blocks up to `upto`.

    `lost` says why the source had lost some of it by then. Blocks up to `since` have gone through an earlier query of
    the view, which cannot be computed again.
    """

    upto: int = 0
    rows: int = 0
    lost: str | None = None
    since: int = 0

    def as_dict(self) -> dict[str, Any]:
        later = {"since": self.since} if self.since else {}
        return {"upto": self.upto, "rows": self.rows, "lost": self.lost, **later}

    @staticmethod
    def of(body: Mapping[str, Any]) -> Consumed:
        return Consumed(int(body["upto"]), int(body["rows"]), body["lost"], int(body.get("since", 0)))


EARLIER = "rows were made by an earlier query of the pipe, and kept"
"""Why a target whose history was kept cannot be computed again."""


class Coverage:
    """Answers from the records, the catalogue and the sources; one object per question, since it remembers."""

    def __init__(self, warehouse: Warehouse, registry: Registry, live: Schema) -> None:
        self._warehouse = warehouse
        self._registry = registry
        self._live = live
        self._records: dict[str, Consumed] | None = None
        self._found: dict[tuple[Name, Consumed], str | None] = {}
        self._extents: dict[Name, tuple[int, int, int]] = {}

    def lacking(self, view: View) -> str | None:
        """Why a view's source may no longer have all rows that its target was made from; None if it has them all."""
        source = view.log or view.source
        record = self._record(view.name)
        if record.lost is not None:
            return record.lost
        key = (source, record)
        if key not in self._found:
            self._found[key] = self._examined(source, record)
        return self._found[key]

    def superseded(self, view: View) -> int | None:
        """The last block of the source that went through an earlier query of a view whose target was kept."""
        record = self._record(view.name)
        return record.since if record.lost == EARLIER else None

    def consumed(self, view: View) -> Consumed:
        """What the target of a view is made from if it is made now. The fence must be held."""
        _, newest, rows = self._extent(view.log or view.source)
        return Consumed(newest, rows)

    def continued(self, view: View) -> Consumed:
        """What the target of a view is made from if an earlier query has filled it. The fence must be held."""
        _, newest, rows = self._extent(view.log or view.source)
        return Consumed(newest, rows, EARLIER, newest)

    def renew(self, views: Iterable[View], *, repeated: bool = False) -> None:
        """Record how far views have come by now, so that it is noticed if rows are removed later.

        What is found to be lost stays so until the target is made again. Missing numbers of blocks are no loss after
        inserts that were `repeated`.
        """
        bodies = {}
        for view in views:
            before = self._record(view.name)
            source = view.log or view.source
            if before.lost is None:
                why = self._examined(source, before, numbers=not repeated)
                now = Consumed(before.upto, before.rows, why) if why is not None else self.consumed(view)
                if now != before:
                    bodies[str(view.name)] = now.as_dict()
        self._registry.write(COVERAGE_KIND, bodies)

    def _record(self, view: Name) -> Consumed:
        if self._records is None:
            self._records = {n: Consumed.of(b) for n, b in self._registry.read(COVERAGE_KIND).items()}
        return self._records.get(str(view), Consumed())

    def _examined(self, source: Name, record: Consumed, *, numbers: bool = True) -> str | None:
        table = self._live.tables.get(source)
        if table is None:
            return f"{source} is gone"
        lowest, newest, rows = self._extent(source)
        if not rows:
            return f"{source} is empty"
        if not _keeps_rows(table):
            return f"{source} has a TTL ({table.ttl}), so rows may have expired" if table.ttl else None
        if newest < record.upto:
            return f"the newest blocks of {source} are gone"
        if record.rows:
            kept = self._rows(source, record.upto)
            if kept < record.rows:
                return f"{record.rows - kept:,} rows of {source} have been removed since"
        if newest == record.upto:
            return None
        if table.ttl:
            return f"{source} has a TTL ({table.ttl}), so rows may have expired"
        if self._copies_all(table, rows):
            return None
        if numbers and not record.upto and lowest > 1:
            return f"the first block of {source} is gone"
        if numbers and self._widest_hole(source, record.upto) > SLACK_BLOCKS:
            return f"blocks of {source} are gone"
        return None

    def _copies_all(self, copy: Table, rows: int) -> bool:
        """Whether a nest's copy has as many rows as landing has of its tenant, and landing keeps them."""
        mark = copy.mark
        if mark is None or mark.tenant is None or not copy.constraints:
            return False
        landing = self._live.tables.get(Name(mark.workspace, copy.name.name))
        if landing is None or landing.ttl or not _keeps_rows(landing):
            return False
        mine = " AND ".join(expression for _, expression in copy.constraints)
        found = self._warehouse.query(f"SELECT count() FROM {landing.name.sql()} WHERE {mine}")
        return int(found.rows[0][0]) == rows

    def _extent(self, source: Name) -> tuple[int, int, int]:
        """The lowest and the highest block of a table, and its rows."""
        if source not in self._extents:
            blocks = "min(_block_number), max(_block_number)"
            ((lowest, newest, rows),) = self._warehouse.query(f"SELECT {blocks}, count() FROM {source.sql()}").rows
            self._extents[source] = (int(lowest), int(newest), int(rows))
        return self._extents[source]

    def _rows(self, source: Name, upto: int) -> int:
        found = self._warehouse.query(f"SELECT count() FROM {source.sql()} WHERE _block_number <= {upto}")
        return int(found.rows[0][0])

    def _widest_hole(self, source: Name, after: int) -> int:
        """The most consecutive block numbers after one that no row has."""
        found = self._warehouse.query(
            f"SELECT max(b - p - 1) FROM (SELECT b, lagInFrame(b, 1, toUInt64({after})) OVER (ORDER BY b ASC "
            "ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS p FROM "
            f"(SELECT DISTINCT toUInt64(_block_number) AS b FROM {source.sql()} WHERE _block_number > {after}))"
        )
        return int(found.rows[0][0])


def _keeps_rows(table: Table) -> bool:
    """Whether a table's engine keeps every row, so that rows can be counted."""
    return table.engine.partition("(")[0] == "MergeTree"
