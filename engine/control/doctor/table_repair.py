"""Repairs one derived table: attaches detached parts that it lacks, and recomputes differing keys.

Repaired rows are prepared in a separate table and moved as whole partitions, so that readers see a partition either
before or after its repair, and views do not deliver the rows a second time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from engine.control.doctor.comparable_columns import columns_of
from engine.control.doctor.comparison import NOTHING_GROWS, Comparison
from engine.control.doctor.detached_parts import (
    ATTACHED,
    DROPPED,
    KEPT,
    Detached,
    DetachedPart,
    attach,
    detach,
    detached_of,
    drop,
    resume_merges,
)
from engine.control.doctor.differences import (
    DIFFERS,
    EXCESSES,
    LESS,
    MISSING,
    MIXED,
    MORE,
    SHORTAGES,
    SURPLUS,
    Difference,
    RepairOutcome,
    count_keys,
)
from engine.schema import Name, literal, quote
from engine.workspace.journal import RegistryJournal
from engine.workspace.workspace import Workspace

_SHORT = (*SHORTAGES, DIFFERS)
"""Kinds of difference that a detached part may explain."""


class TableRepair:
    """Repairs the table of a comparison. With `excess`, it also removes excess rows if the sources are complete."""

    def __init__(self, workspace: Workspace, comparison: Comparison, *, excess: bool = False) -> None:
        self._warehouse = workspace.warehouse
        self._registry = workspace.registry
        self._comparison = comparison
        self._columns = comparison.columns
        self._tables = comparison.tables
        self._excess = excess
        self._table: Name = comparison.derived.table.name
        self._whole_rows = comparison.derived.table.engine == "MergeTree"

    def run(self) -> RepairOutcome:
        """Compare the table and repair what differs."""
        differences = self._comparison.differences()
        if differences is None:
            return RepairOutcome(self._table)
        parts = detached_of(self._warehouse, self._table)
        unproven = self._comparison.why_unproven() if differences or parts else None
        attached: list[Detached] = []
        if parts and any(d.counts.get(kind) for d in differences for kind in _SHORT):
            differences, attached = self._attach_missing(parts, differences, sources_complete=unproven is None)
        outcome = RepairOutcome(
            self._table,
            tuple(differences),
            self._columns.skipped,
            lost=unproven,
            detached=tuple(attached),
            excess=self._excess,
        )
        if differences:
            outcome = replace(outcome, repaired=self._repair_keys(sources_complete=unproven is None))
        remaining = {p.name for p in parts} - {d.part for d in attached}
        if not remaining:
            return outcome
        return replace(outcome, detached=(*attached, *self._drop_unneeded(unproven)))

    def _attach_missing(
        self, parts: list[DetachedPart], differences: list[Difference], *, sources_complete: bool
    ) -> tuple[list[Difference], list[Detached]]:
        """Attach intact detached parts whose rows the table lacks. Returns the remaining differences."""
        attached: list[Detached] = []
        for part in [p for p in parts if not p.reason]:
            remaining = self._try_part(part, differences, sources_complete=sources_complete)
            if remaining is not None:
                differences = remaining
                attached.append(Detached(part.name, ATTACHED, "the table lacked its rows"))
        # The scratch tables may still contain the rows of a part that was tried and detached again.
        return self._comparison.differences() or [], attached

    def _try_part(
        self, part: DetachedPart, differences: list[Difference], *, sources_complete: bool
    ) -> list[Difference] | None:
        """What differs after a part is attached; None if that is not an improvement, and the part is detached again.

        Merges stay stopped meanwhile: a merged part could not be detached without other rows.
        """
        with self._comparison.inserts_held() as caught_up:
            RegistryJournal(self._registry).record_newest_blocks()
            attached = attach(self._warehouse, self._table, part) if caught_up else None
        if attached is None:
            return None
        after: list[Difference] | None = None
        try:
            after = self._comparison.differences()
        finally:
            better = after is not None and count_keys(after, _SHORT) < count_keys(differences, _SHORT)
            if sources_complete and after is not None:
                better = better and count_keys(after, EXCESSES) <= count_keys(differences, EXCESSES)
            # Done even after an error: a part stays attached only if that is proved to be correct.
            if not better:
                detach(self._warehouse, self._table, attached)
            resume_merges(self._warehouse, self._table)
        return after if better else None

    def _drop_unneeded(self, unproven: str | None) -> Iterator[Detached]:
        """Drop the remaining detached parts if the sources prove that the table does not lack anything; otherwise
        return why not.
        """
        reason = unproven
        if reason is None and not self._columns.growing:
            reason = NOTHING_GROWS
        if reason is None and self._comparison.differences():
            reason = "the table still differs from its source"
        for part in detached_of(self._warehouse, self._table):
            if reason is not None:
                yield Detached(part.name, KEPT, f"it is unknown whether the table has its rows: {reason}")
            else:
                drop(self._warehouse, self._table, part)
                yield Detached(
                    part.name,
                    DROPPED,
                    "no rows are lost: the table has everything that can be computed from its source",
                )

    def _repair_keys(self, *, sources_complete: bool) -> int:
        """Add missing keys and replace differing ones. Returns the number of keys.

        If the sources are incomplete, only values that are lower than the result over the sources are raised to it,
        so that values of columns that only grow are never lowered. Rows of a plain MergeTree, and values that can be
        merged again, are added to the existing ones instead.
        """
        replaced = self._replaced_kinds(sources_complete=sources_complete)
        repaired_keys = self._keys_of({MISSING, LESS, *replaced})
        replaced_keys = self._keys_of({*replaced, ""})
        ((count, replaced_count),) = self._warehouse.query(
            f"SELECT countIf(h IN {repaired_keys}), countIf(h IN {replaced_keys}) FROM {self._tables.differing.sql()}"
        ).rows
        if not count:
            return 0
        with self._comparison.inserts_held() as caught_up:
            if not caught_up:
                return 0
            # Rows that arrived after the comparison also belong to the repaired keys.
            heads = {source: self._comparison.head(source) for source in self._comparison.heads}
            self._comparison.compute(self._comparison.heads, heads)
            self._warehouse.execute(f"CREATE TABLE {self._tables.fresh.sql()} AS {self._table.sql()}")
            self._insert_fresh(self._rows_to_add(repaired_keys, sources_complete=sources_complete))
            partitions = self._partitions_with(replaced_keys) if replaced_count else []
            if partitions:
                self._insert_fresh(
                    f"{self._table.sql()} WHERE _partition_id IN ({', '.join(map(literal, partitions))}) "
                    f"AND sipHash128({self._columns.key}) NOT IN {replaced_keys}"
                )
            # Inserts are still blocked: rows that arrive in a replaced partition would be lost with it.
            self._move_partitions(set(partitions))
        return int(count)

    def _replaced_kinds(self, *, sources_complete: bool) -> tuple[str, ...]:
        """Kinds of difference whose keys lose their existing rows."""
        if sources_complete:
            return (LESS, DIFFERS, *((MIXED, MORE, SURPLUS) if self._excess else ()))
        return () if self._whole_rows or self._columns.merges_again else (LESS,)

    def _keys_of(self, kinds: set[str]) -> str:
        """A subquery for the hashes of keys that differ in one of the given ways."""
        listed = ", ".join(map(literal, sorted(kinds)))
        return f"(SELECT h FROM {self._tables.differing.sql()} WHERE what IN ({listed}))"

    def _insert_fresh(self, rows: str) -> None:
        columns = self._comparison.stored_columns()
        self._warehouse.execute(
            f"INSERT INTO {self._tables.fresh.sql()} ({columns}) SETTINGS deduplicate_insert = 'disable' "
            f"SELECT {columns} FROM {rows}"
        )

    def _rows_to_add(self, keys: str, *, sources_complete: bool) -> str:
        """The rows that are added for some keys: all expected rows, or only those that the table does not have."""
        chosen = f"WHERE sipHash128({self._columns.key}) IN {keys}"
        expected, actual = self._tables.expected.sql(), self._tables.actual.sql()
        if sources_complete or not self._whole_rows:
            return f"{expected} {chosen}"
        # Equal rows are numbered, so that the second of two equal rows is added if the table has only one.
        texts = ", ".join(quote(c.name) for c in columns_of(self._comparison.derived.table))
        numbered = (
            f"sipHash128(formatRow('TSV', {texts})) AS _rk_row, row_number() OVER (PARTITION BY _rk_row) AS _rk_n"
        )
        present = f"SELECT _rk_row, _rk_n FROM (SELECT {numbered} FROM {actual} {chosen})"
        return f"(SELECT *, {numbered} FROM {expected} {chosen}) WHERE (_rk_row, _rk_n) NOT IN ({present})"

    def _partitions_with(self, keys: str) -> list[str]:
        """Partitions of the table that contain rows of some keys."""
        result = self._warehouse.query(
            f"SELECT DISTINCT _partition_id FROM {self._table.sql()} "
            f"WHERE sipHash128({self._columns.key}) IN {keys} ORDER BY 1"
        )
        return [str(row[0]) for row in result.rows]

    def _move_partitions(self, replaced: set[str]) -> None:
        """Move the new rows into the table: in place of the `replaced` partitions, and in addition to the rows of
        others.

        Moving partitions does not run views; views on the table have already received these rows. The table forgets
        the deduplication tokens of replaced parts, so the journal first records that no earlier block will be sent
        again.
        """
        RegistryJournal(self._registry).record_newest_blocks()
        result = self._warehouse.query(
            "SELECT DISTINCT partition_id FROM system.parts "
            "WHERE active AND database = {d:String} AND table = {t:String} ORDER BY 1",
            {"d": self._tables.fresh.database, "t": self._tables.fresh.name},
        )
        fresh = [str(partition) for (partition,) in result.rows]
        for partition in fresh:
            verb = "REPLACE" if partition in replaced else "ATTACH"
            self._warehouse.execute(
                f"ALTER TABLE {self._table.sql()} {verb} PARTITION ID {literal(partition)} "
                f"FROM {self._tables.fresh.sql()}"
            )
        for partition in sorted(replaced - set(fresh)):
            self._warehouse.execute(f"ALTER TABLE {self._table.sql()} DROP PARTITION ID {literal(partition)}")
