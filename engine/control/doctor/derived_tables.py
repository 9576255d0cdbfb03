"""Comparing derived tables with their sources, and delivering what they lack.

A table's content and the position of its source are taken at one moment, behind the fence: the content as a clone of
its parts, which costs no copy. The view's query over the source's blocks up to there, range by range, then says in a
table of its own what should be there. Both are compared key by key, in portions that fit into memory.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from engine.compiler.storage import NULL_ENGINE
from engine.compiler.views import in_block_range, nest_schema
from engine.control.doctor.comparable_columns import ComparableColumns, columns_of, comparable_columns
from engine.control.doctor.detached_parts import (
    ATTACHED,
    DROPPED,
    KEPT,
    Detached,
    Part,
    attach,
    detach,
    detached_of,
    drop,
    resume_merges,
)
from engine.control.doctor.findings import Context
from engine.control.doctor.merged_sources import bounds
from engine.control.fanout_status import lagging
from engine.control.planning import desired_schema
from engine.errors import UNKNOWN_RESOURCE, RookeryError
from engine.fanout.router import router_of
from engine.fanout.suspended_views import suspended
from engine.plan.backfill import block_ranges
from engine.plan.coverage import Coverage
from engine.schema import Name, Table, View, literal, quote
from engine.warehouse import ddl
from engine.warehouse.catalog import read_schema
from engine.workspace.journal import RegistryJournal
from engine.workspace.workspace import Workspace

COMPARED_ROWS = 1_000_000
"""Rows of a table that are compared at a time."""
_VOLATILE = re.compile(
    r"\b(now|now64|today|yesterday|rand|rand32|rand64|randConstant|randUniform|randNormal|randomString\w*|fuzzBits|"
    r"generate\w+|getSetting|rowNumber\w*|blockNumber|nowInBlock|runningDifference|neighbor|hostName|version|uptime|"
    r"currentDatabase|serverUUID|dict\w+|timezone|toUnixTimestamp64Now)\("
)
"""Functions whose value changes from call to call, or with what was read before."""
_GROUPING = re.compile(r"\b(Aggregating|Distinct|LimitBy|Limit|Window|Sorting with limit)\b")
_NOT_IMPLEMENTED = 48
"""The engine's number for a statement that a kind of table does not take."""
UNTOLD = "none of its columns tells whether it has more than its source"
MISSING, LESS, MIXED, DIFFERS, MORE, SURPLUS = "missing", "less", "mixed", "differs", "more", "surplus"
SHORT = (MISSING, LESS, MIXED)
"""Kinds of difference that prove a shortage, whatever the source has lost."""
TOO_MUCH = (MIXED, MORE, SURPLUS)


@dataclass(frozen=True, slots=True)
class Derived:
    """A table with the views that fill it. `tenant` is whose it is, or None for a table that several share."""

    table: Table
    views: tuple[View, ...]
    tenant: str | None
    tenant_column: str | None


@dataclass(slots=True)
class Difference:
    """Keys of one tenant's rows in a table that are not as the source says, by how they are not, and one of them."""

    table: Name
    tenant: str | None
    counts: dict[str, int] = field(default_factory=dict)
    example: str = ""

    def text(self) -> str:
        """One sentence."""
        words = {
            MISSING: "are missing",
            LESS: "have less than the source gives",
            MIXED: "have less of some columns than the source gives, and more of others",
            DIFFERS: "have other values than the source gives",
            MORE: "have more than the source gives",
            SURPLUS: "are not in the source",
        }
        parts = [f"{n:,} keys {words[what]}" for what, n in sorted(self.counts.items())]
        return f"{', '.join(parts)}, for example {self.example[:200]}"


@dataclass(frozen=True, slots=True)
class RepairOutcome:
    """What comparing a table came to; `skipped` are columns that were left out, `uncompared` why all of it was."""

    table: Name
    differences: tuple[Difference, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    uncompared: str | None = None
    repaired: int = 0
    lost: str | None = None
    """Why the source does not tell all that the table should hold."""
    detached: tuple[Detached, ...] = ()
    excess: bool = False
    """Whether what the source does not give was taken out."""

    def stays_wrong(self, *, repaired: bool) -> bool:
        """Whether the table is known not to be what it should be, after it was repaired or without that."""
        wrong: tuple[str, ...] = SHORT if self.lost is not None else (*SHORT, DIFFERS, MORE, SURPLUS)
        if repaired:
            wrong = (MIXED,) if self.lost is not None else () if self.excess else TOO_MUCH
        return _keys(self.differences, wrong) > 0


def derived_tables(patient: Context, *, copies: bool = False) -> Iterator[Derived]:
    """Tables that are made from others, in order of data flow; nests' copies of landing first, if they are wanted."""
    build, workspace = patient.snapshot.build, patient.workspace
    down = {n["view"] for n in suspended(workspace)} | {
        h.view for h in RegistryJournal(workspace.registry).outstanding()
    }
    behind = set[str]().union(*lagging(workspace).values())
    by_target: dict[Name, list[View]] = {}
    for view in patient.desired.views.values():
        if not (view.mark and view.mark.fingerprint.startswith("copy:")):
            by_target.setdefault(view.target, []).append(view)
    if copies:
        feeding: dict[Name, list[View]] = {}
        for tenant in patient.snapshot.tenants.values():
            if tenant.placement == "tables":
                for view in nest_schema(build, tenant.id).views.values():
                    if view.mark and view.mark.fingerprint.startswith("copy:"):
                        feeding[view.target] = [view]
        by_target = {**feeding, **by_target}
    for name, views in by_target.items():
        live = patient.live.tables.get(name)
        mark = views[0].mark
        whose = mark.tenant if mark else None
        copied = bool(mark and mark.fingerprint.startswith("copy:"))
        if live is None or live.engine == NULL_ENGINE or whose in behind:
            continue
        if whose is not None and patient.snapshot.tenants[whose].state != "ready":
            continue
        if any(str(v.name) in down or not (copied or v.name in patient.live.views) for v in views):
            # Suspended views, unfinished histories and missing views are findings of their own.
            continue
        relation = build.relations.get(name.name)
        column = relation.tenant if relation is not None and live.column(relation.tenant or "") else None
        yield Derived(live, tuple(views), whose, column)


class Comparison:
    """Compares one derived table with its sources, and repairs it. Its tables are dropped at the end.

    With `excess`, a repair also takes out what the table has and a source that is whole does not give.
    """

    def __init__(self, patient: Context, derived: Derived, *, excess: bool = False) -> None:
        self._patient = patient
        self._excess = excess
        self._coverage = Coverage(patient.workspace.warehouse, patient.workspace.registry, patient.live)
        self._whole_rows = derived.table.engine == "MergeTree"
        self._merging: str | None = None
        self._workspace: Workspace = patient.workspace
        self._warehouse = patient.workspace.warehouse
        self._derived = derived
        self._heads: dict[Name, int] = {}
        # What has come into a copy is not recorded: landing is its source.
        self._copied = any(v.mark and v.mark.fingerprint.startswith("copy:") for v in derived.views)
        scratch = f"{self._workspace.name}_scratch"
        self._should, self._there, self._keys, self._fresh = (
            Name(scratch, f"_rk_{what}") for what in ("should", "there", "keys", "fresh")
        )

    def run(self, *, repair: bool = False) -> RepairOutcome:
        """Compare, and repair if that is wanted."""
        table = self._derived.table
        shape = comparable_columns(table)
        if isinstance(shape, str):
            return RepairOutcome(table.name, uncompared=shape)
        shape, why = self._comparable(shape)
        if why is None:
            shape, why = self._bounded(shape)
        if why is not None:
            return RepairOutcome(table.name, uncompared=why)
        try:
            self._warehouse.execute(ddl.create_database(self._should.database))
            found = self._differences(shape)
            if found is None:
                return RepairOutcome(table.name)
            aside = detached_of(self._warehouse, table.name) if repair else []
            lost = self._lost(shape) if found or aside else None
            tried: list[Detached] = []
            if aside and any(d.counts.get(kind) for d in found for kind in (*SHORT, DIFFERS)):
                found, tried = self._put_back(shape, found, aside, lost)
            outcome = RepairOutcome(
                table.name, tuple(found), shape.skipped, lost=lost, detached=tuple(tried), excess=self._excess
            )
            if found and repair:
                outcome = replace(outcome, repaired=self._repair(shape, whole=lost is None))
            left = [p for p in aside if p.name not in {t.part for t in tried if t.done == ATTACHED}]
            return replace(outcome, detached=(*tried, *self._put_away(shape, left, lost))) if left else outcome
        finally:
            self._clean()

    def _differences(self, shape: ComparableColumns) -> list[Difference] | None:
        """Compare from the beginning; None while the table's tenant does not keep up."""
        self._clean()
        if not self._snapshot():
            return None
        self._expect()
        return list(self._compare(shape))

    def _put_back(
        self, shape: ComparableColumns, found: list[Difference], aside: list[Part], lost: str | None
    ) -> tuple[list[Difference], list[Detached]]:
        """Attach detached parts that are whole, as long as the table lacks what they bring."""
        tried: list[Detached] = []
        for part in [p for p in aside if not p.reason]:
            after = self._with_part(shape, part, found, whole=lost is None)
            if after is not None:
                found = after
                tried.append(Detached(part.name, ATTACHED, "the table lacked its rows"))
        # A part that was taken out again has left its rows in what was compared.
        return self._differences(shape) or [], tried

    def _with_part(
        self, shape: ComparableColumns, part: Part, found: list[Difference], *, whole: bool
    ) -> list[Difference] | None:
        """What differs once a part is attached; None if that is no better, and the part is detached again."""
        table, short = self._derived.table.name, (*SHORT, DIFFERS)
        with self._still() as quiet:
            RegistryJournal(self._workspace.registry).record_newest_blocks()
            attached = attach(self._warehouse, table, part) if quiet else None
        if attached is None:
            return None
        after: list[Difference] | None = None
        try:
            after = self._differences(shape)
        finally:
            better = after is not None and _keys(after, short) < _keys(found, short)
            if whole and after is not None and _keys(after, TOO_MUCH) > _keys(found, TOO_MUCH):
                better = False
            if not better:
                detach(self._warehouse, table, attached)
            resume_merges(self._warehouse, table)
        return after if better else None

    def _put_away(self, shape: ComparableColumns, left: list[Part], lost: str | None) -> Iterator[Detached]:
        """Drop parts that the table has no use for, where the source proves that; say of others why they stay."""
        why = lost
        if why is None and not shape.growing:
            why = UNTOLD
        if why is None and self._differences(shape):
            why = "the table still differs from its source"
        for part in detached_of(self._warehouse, self._derived.table.name) if left else ():
            if why is not None:
                yield Detached(part.name, KEPT, f"it cannot be told whether the table has its rows: {why}")
            else:
                drop(self._warehouse, self._derived.table.name, part)
                yield Detached(part.name, DROPPED, "nothing is lost: the table has all that its source gives")

    def _clean(self) -> None:
        for name in (self._should, self._there, self._keys, self._fresh):
            self._warehouse.execute(ddl.drop_table(name))

    def _comparable(self, shape: ComparableColumns) -> tuple[ComparableColumns, str | None]:
        """The shape without columns that change from run to run, or why nothing can be compared."""
        skipped, values = dict(shape.skipped), list(shape.values)
        plain = self._derived.table.engine == "MergeTree"
        keys = {c.name for c in self._derived.table.columns if quote(c.name) in shape.key or c.name in shape.key}
        for view in self._derived.views:
            sql = in_block_range(view.backfill, 0, 1)
            if plain and _GROUPING.search(self._plan(f"SELECT * FROM ({sql})")):
                return shape, "its rows depend on how rows were sent together, since its query groups or limits them"
            if not _VOLATILE.search(sql):
                continue
            for column in view.columns:
                found = _VOLATILE.search(self._plan(f"SELECT {quote(column)} FROM ({sql})"))
                if found is None:
                    continue
                if plain or column in keys:
                    return shape, f"column {column} is made by {found[1]}(), which gives another value each time"
                skipped[column] = f"{found[1]}() gives another value each time"
                values = [v for v in values if v[0] != column]
        return replace(shape, values=tuple(values), skipped=tuple(skipped.items())), None

    def _bounded(self, shape: ComparableColumns) -> tuple[ComparableColumns, str | None]:
        """The shape as far as sources that merge their rows tell anything, or why nothing can be compared."""
        tables, exact, known = self._patient.live.tables, {n for n, _ in shape.values}, {n for n, _ in shape.values}
        for view in self._derived.views:
            source = tables.get(view.log or view.source)
            if source is None or source.engine == "MergeTree":
                continue
            if self._coverage.superseded(view) is not None:
                return shape, f"its rows were made by several queries, and {source.name} merges its rows"
            told = bounds(self._warehouse, self._patient.snapshot.build, view, source, shape)
            self._merging = f"{source.name} merges its rows ({source.engine})"
            if told is None:
                exact = known = set()
                break
            exact &= {n for n, bound in told.items() if bound == "exact"}
            known &= told.keys()
        if self._merging is None:
            return shape, None
        unknown = [(n, f"it depends on how {self._merging}") for n, _ in shape.values if n not in known]
        shape = replace(
            shape,
            values=tuple(v for v in shape.values if v[0] in known),
            additive=shape.additive & known,
            idempotent=shape.idempotent & known,
            floor=frozenset(known - exact),
            skipped=(*shape.skipped, *unknown),
        )
        return shape, None

    def _plan(self, sql: str) -> str:
        found = self._warehouse.query(f"EXPLAIN actions = 1 {sql}")
        return "\n".join(str(row[0]) for row in found.rows)

    @contextmanager
    def _still(self) -> Iterator[bool]:
        """While no row comes in: whether everything that has landed has reached the table."""
        tenant = self._derived.tenant
        with ExitStack() as stack:
            stack.enter_context(self._workspace.view_lock.changing())
            self._workspace.view_lock.completion.complete_all()
            for name in self._patient.snapshot.routed if tenant is not None else ():
                worker = router_of(self._workspace).worker(name)
                if worker is None:
                    continue
                worker.drain()
                lagging = {t for c in worker.position().lagging for t in c.members}
                if tenant in lagging:
                    yield False
                    return
            yield True

    def _snapshot(self) -> bool:
        with self._still() as quiet:
            if not quiet:
                return False
            for source in {v.log or v.source for v in self._derived.views}:
                self._heads[source] = self._head(source)
            self._copy()
        return True

    def _copy(self) -> None:
        """Clone the table, or copy its rows: the engine cannot clone a table that slept after its start."""
        there, table = self._there.sql(), self._derived.table.name.sql()
        try:
            self._warehouse.execute(f"CREATE TABLE {there} CLONE AS {table}")
        except RookeryError as exc:
            if getattr(exc, "engine_code", None) != _NOT_IMPLEMENTED:
                raise
            self._clean()
            self._warehouse.execute(f"CREATE TABLE {there} AS {table}")
            if self._derived.table.ttl:
                self._warehouse.execute(ddl.modify_ttl(self._there, ""))
            self._warehouse.execute(
                f"INSERT INTO {there} ({self._columns()}) SETTINGS deduplicate_insert = 'disable' "
                f"SELECT {self._columns()} FROM {table}"
            )

    def _columns(self) -> str:
        """The columns of the table that are stored from an INSERT."""
        kinds = ("MATERIALIZED", "ALIAS", "EPHEMERAL")
        return ", ".join(quote(c.name) for c in self._derived.table.columns if c.default_kind not in kinds)

    def _head(self, source: Name) -> int:
        """The highest number of a block. It is read from the rows: `system.parts` lacks tables that have slept."""
        return int(self._warehouse.query(f"SELECT max(_block_number) FROM {source.sql()}").rows[0][0])

    def _expect(self) -> None:
        """Fill a table like the derived one with what the views give for the sources' blocks."""
        table = self._derived.table
        self._warehouse.execute(f"CREATE TABLE {self._should.sql()} AS {table.name.sql()}")
        if table.ttl:
            self._warehouse.execute(ddl.modify_ttl(self._should, ""))
        self._deliver(dict.fromkeys(self._heads, 0), self._heads)

    def _deliver(self, after: dict[Name, int], upto: dict[Name, int]) -> None:
        """What went through an earlier query of a view is left out: the present one does not tell of it."""
        for view in self._derived.views:
            source = view.log or view.source
            since = max(after[source], self._coverage.superseded(view) or 0)
            for first, last in block_ranges(self._warehouse, source, after=since):
                if first >= upto[source]:
                    break
                columns = ", ".join(map(quote, view.columns))
                self._warehouse.execute(
                    f"INSERT INTO {self._should.sql()} ({columns}) SETTINGS deduplicate_insert = 'disable', "
                    f"max_insert_threads = 1 {in_block_range(view.backfill, first, min(last, upto[source]))}"
                )

    def _compare(self, shape: ComparableColumns) -> Iterator[Difference]:
        """Put keys that differ into a table, and sum them up by tenant."""
        self._warehouse.execute(
            f"CREATE TABLE {self._keys.sql()} (h FixedString(16), k String, t String, what String) "
            "ENGINE = MergeTree ORDER BY h"
        )
        rows = max(self._rows(self._should), self._rows(self._there))
        portions = rows // COMPARED_ROWS + 1
        tests = self._tests(shape)
        for portion in range(portions):
            e, a = (self._side(shape, name.sql(), portion, portions) for name in (self._should, self._there))
            joined = f"({e}) AS e FULL OUTER JOIN ({a}) AS a ON e._rk_h = a._rk_h"
            if shape.idempotent:
                # What both hold together tells whether one holds the other.
                both = f"(SELECT * FROM {self._should.sql()} UNION ALL SELECT * FROM {self._there.sql()})"
                u = self._side(replace(shape, zeros=False), both, portion, portions)
                joined = (
                    f"({u}) AS u LEFT JOIN ({e}) AS e ON u._rk_h = e._rk_h LEFT JOIN ({a}) AS a ON u._rk_h = a._rk_h"
                )
            self._warehouse.execute(
                f"INSERT INTO {self._keys.sql()} "
                "SELECT if(e._rk_one, e._rk_h, a._rk_h), if(e._rk_one, e._rk_k, a._rk_k), "
                "if(e._rk_one, e._rk_tenant, a._rk_tenant), "
                f"multiIf(NOT a._rk_one, '{MISSING}', NOT e._rk_one, '{SURPLUS}', "
                f"({tests.less}) AND ({tests.more}), '{MIXED}', "
                f"{tests.more}, '{MORE}', {tests.less}, '{LESS}', '{DIFFERS}') "
                f"FROM {joined} WHERE e._rk_one != a._rk_one OR {tests.differ} SETTINGS join_use_nulls = 0"
            )
        told = ", ".join(map(literal, self._telling()))
        found = self._warehouse.query(
            f"SELECT t, what, count(), min(k) FROM {self._keys.sql()} WHERE what IN ({told}) "
            "GROUP BY t, what ORDER BY t, what"
        )
        by_tenant: dict[str, Difference] = {}
        for tenant, what, count, example in found.rows:
            whose = tenant or self._derived.tenant
            item = by_tenant.setdefault(tenant, Difference(self._derived.table.name, whose, {}, example))
            item.counts[what] = int(count)
        yield from by_tenant.values()

    def _tests(self, shape: ComparableColumns) -> _Tests:
        """Conditions of keys that are in both tables, and differ."""
        floats = self._floats(shape)
        less, more, differ = ["0"], ["0"], ["0"]
        for n, (name, _) in enumerate(shape.values):
            short, over = f"a._rk_v{n} < e._rk_v{n}", f"a._rk_v{n} > e._rk_v{n}"
            if name in shape.idempotent:
                short, over = f"u._rk_v{n} != a._rk_v{n}", f"u._rk_v{n} != e._rk_v{n}"
            less += [short] if name in shape.growing else []
            more += [over] if name in shape.growing - shape.floor else []
            differ.append(f"({short})" if name in shape.floor else _differ(f"_rk_v{n}", n in floats))
        return _Tests(*(" OR ".join(some) for some in (less, more, differ)))

    def _telling(self) -> tuple[str, ...]:
        """Kinds of difference that mean a fault, or may."""
        if any(self._coverage.superseded(v) is not None for v in self._derived.views):
            return SHORT
        # What was replaced or collapsed in a source is in what was made from it.
        return (*SHORT, DIFFERS, MORE) if self._merging else (*SHORT, DIFFERS, MORE, SURPLUS)

    def _side(self, shape: ComparableColumns, name: str, portion: int, portions: int) -> str:
        """A SELECT of the values of each key. Its names are reserved ones: an alias hides the column of that name."""
        column = self._derived.tenant_column
        tenant = f"toString({quote(column)})" if column else "''"
        values = "".join(f", {sql} AS _rk_v{n}" for n, (_, sql) in enumerate(shape.values))
        where = shape.living
        if portions > 1:
            where += f" AND cityHash64({shape.key}) % {portions} = {portion}"
        zeros = " AND ".join(f"_rk_v{n} = 0" for n in range(len(shape.values))) if shape.zeros else ""
        having = f" HAVING NOT ({zeros})" if zeros else ""
        return (
            f"SELECT 1 AS _rk_one, any({shape.text}) AS _rk_k, sipHash128({shape.key}) AS _rk_h, "
            f"any({tenant}) AS _rk_tenant{values} FROM {name} WHERE {where} GROUP BY {shape.key}{having}"
        )

    def _floats(self, shape: ComparableColumns) -> set[int]:
        """Positions of values that are floating-point numbers, whose sums depend on the order of rows."""
        found = self._warehouse.query(f"DESCRIBE ({self._side(shape, self._should.sql(), 0, 1)})")
        types = {str(row[0]): str(row[1]) for row in found.rows}
        return {
            n for n in range(len(shape.values)) if "Float" in types[f"_rk_v{n}"] and "(" not in types[f"_rk_v{n}"]
        }

    def _rows(self, name: Name) -> int:
        return int(self._warehouse.query(f"SELECT count() FROM {name.sql()}").rows[0][0])

    def _lost(self, shape: ComparableColumns) -> str | None:
        """Why the sources may no longer have everything that the table was made from, or it cannot be told."""
        if self._untold(shape):
            return self._merging or UNTOLD
        for view in self._derived.views:
            source = self._patient.live.tables.get(view.log or view.source)
            why = None if self._copied else self._coverage.why_incomplete(view)
            if why is not None:
                return why
            if source is not None and source.ttl and not (self._copied and source.ttl == self._derived.table.ttl):
                return f"rows of {source.name} go by its TTL ({source.ttl})"
        return self._merging if shape.floor else None

    def _untold(self, shape: ComparableColumns) -> bool:
        """Whether the columns that are compared do not tell that a key has all of its rows.

        Sums of signed numbers do, as long as no other column is left out of the comparison.
        """
        return not shape.growing and (not shape.values or bool(shape.skipped))

    def _repair(self, shape: ComparableColumns, *, whole: bool) -> int:
        """Deliver keys that are missing, and bring others to what the sources give. How many keys.

        If the sources are not `whole`, keys with less than they give are raised to it: no column that only grows is
        lowered by that. Rows that are kept as they are, and values that merge again, are added to what is there.
        """
        table = self._derived.table
        replaced = (LESS, DIFFERS, *((MIXED, MORE, SURPLUS) if self._excess else ())) if whole else (LESS,)
        if not whole and (self._whole_rows or shape.merges_again):
            replaced = ()
        wanted = {MISSING, LESS, *replaced}
        some = f"(SELECT h FROM {self._keys.sql()} WHERE what IN ({', '.join(map(literal, sorted(wanted)))}))"
        differing = f"(SELECT h FROM {self._keys.sql()} WHERE what IN ({', '.join(map(literal, (*replaced, '')))}))"
        ((count, others),) = self._warehouse.query(
            f"SELECT countIf(h IN {some}), countIf(h IN {differing}) FROM {self._keys.sql()}"
        ).rows
        if not count:
            return 0
        columns = self._columns()
        with self._still() as quiet:
            if not quiet:
                return 0
            heads = {source: self._head(source) for source in self._heads}
            self._deliver(self._heads, heads)
            self._warehouse.execute(f"CREATE TABLE {self._fresh.sql()} AS {table.name.sql()}")
            self._warehouse.execute(
                f"INSERT INTO {self._fresh.sql()} ({columns}) SETTINGS deduplicate_insert = 'disable' "
                f"SELECT {columns} FROM {self._lacked(shape, some, whole=whole)}"
            )
            affected = self._affected(shape, differing) if others else []
            if affected:
                self._warehouse.execute(
                    f"INSERT INTO {self._fresh.sql()} ({columns}) SETTINGS deduplicate_insert = 'disable' "
                    f"SELECT {columns} FROM {table.name.sql()} "
                    f"WHERE _partition_id IN ({', '.join(map(literal, affected))}) "
                    f"AND sipHash128({shape.key}) NOT IN {differing}"
                )
            self._put_in_place(set(affected))
        return int(count)

    def _lacked(self, shape: ComparableColumns, keys: str, *, whole: bool) -> str:
        """What is delivered for some keys: all that the sources give, or only those rows that are not there."""
        chosen = f"WHERE sipHash128({shape.key}) IN {keys}"
        if whole or not self._whole_rows:
            return f"{self._should.sql()} {chosen}"
        texts = ", ".join(quote(c.name) for c in columns_of(self._derived.table))
        numbered = (
            f"sipHash128(formatRow('TSV', {texts})) AS _rk_row, row_number() OVER (PARTITION BY _rk_row) AS _rk_n"
        )
        there = f"SELECT _rk_row, _rk_n FROM (SELECT {numbered} FROM {self._there.sql()} {chosen})"
        return f"(SELECT *, {numbered} FROM {self._should.sql()} {chosen}) WHERE (_rk_row, _rk_n) NOT IN ({there})"

    def _affected(self, shape: ComparableColumns, keys: str) -> list[str]:
        """Partitions with rows of some keys."""
        found = self._warehouse.query(
            f"SELECT DISTINCT _partition_id FROM {self._derived.table.name.sql()} "
            f"WHERE sipHash128({shape.key}) IN {keys} ORDER BY 1"
        )
        return [str(row[0]) for row in found.rows]

    def _put_in_place(self, replaced: set[str]) -> None:
        """Bring the fresh rows into the table: whole partitions in one step, or beside what is there.

        No view is woken by it: what hangs on the table has had these rows. A table forgets the tokens of what is
        replaced, so it is noted that nothing up to here will come again.
        """
        RegistryJournal(self._workspace.registry).record_newest_blocks()
        found = self._warehouse.query(
            "SELECT DISTINCT partition_id FROM system.parts "
            "WHERE active AND database = {d:String} AND table = {t:String} ORDER BY 1",
            {"d": self._fresh.database, "t": self._fresh.name},
        )
        for (partition,) in found.rows:
            how = "REPLACE" if partition in replaced else "ATTACH"
            self._warehouse.execute(
                f"ALTER TABLE {self._derived.table.name.sql()} {how} PARTITION ID {literal(str(partition))} "
                f"FROM {self._fresh.sql()}"
            )
        for partition in sorted(replaced - {str(p) for (p,) in found.rows}):
            self._warehouse.execute(
                f"ALTER TABLE {self._derived.table.name.sql()} DROP PARTITION ID {literal(partition)}"
            )


@dataclass(frozen=True, slots=True)
class _Tests:
    less: str
    more: str
    differ: str


def _keys(found: Sequence[Difference], kinds: Collection[str]) -> int:
    return sum(n for d in found for kind, n in d.counts.items() if kind in kinds)


def _differ(value: str, float_: bool) -> str:
    if not float_:
        return f"(e.{value} != a.{value})"
    return (
        f"(isNaN(e.{value}) != isNaN(a.{value}) OR "
        f"abs(e.{value} - a.{value}) > 1e-9 * greatest(abs(e.{value}), abs(a.{value})))"
    )


def outcomes(
    patient: Context, *, repair: bool = False, skip: Sequence[Name] = (), allow: Collection[str] = ()
) -> Iterator[RepairOutcome]:
    """Compare every derived table but those that are made from one of `skip`, and repair them if that is wanted.

    Nor those that are made from a table which is found to be wrong and stays so: what is wrong there must not spread.
    Tables named in `allow` may lose what their sources do not give. A table that cannot be read is an outcome, too.
    """
    wrong = {*skip}
    for derived in derived_tables(patient, copies=repair):
        if any(v.source in wrong for v in derived.views):
            wrong.add(derived.table.name)
            continue
        try:
            outcome = Comparison(patient, derived, excess=derived.table.name.name in allow).run(repair=repair)
            if outcome.stays_wrong(repaired=repair):
                wrong.add(derived.table.name)
            yield outcome
        except RookeryError as exc:
            yield RepairOutcome(
                derived.table.name, uncompared=f"it cannot be read: {exc.detail or exc.message}"[:500]
            )


def repair(workspace: Workspace, allow: Collection[str] = ()) -> dict[str, Any]:
    """Compare every copy and derived table with its source and deliver what is missing. What was done, as plain data.

    Keys that differ are replaced where the source still has everything. What a table has and its source does not give
    is taken out only if the table is in `allow`, and its source has everything. Raises RK3007 for a name of no table.
    """
    with workspace.changes:
        snapshot = workspace.refresh()
        unknown = sorted({*allow} - {*snapshot.build.relations})
        if unknown:
            message = f"nothing is named `{unknown[0][:120]}`, so there is nothing to allow"
            raise RookeryError(UNKNOWN_RESOURCE, message, hint="rookery datasource ls")
        live = read_schema(workspace.warehouse, workspace.name)
        patient = Context(workspace, snapshot, live, desired_schema(snapshot.build, snapshot))
        found = outcomes(patient, repair=True, allow=allow)
        return {"repaired": [_told(o) for o in found if o.differences or o.uncompared or o.detached]}


def _told(outcome: RepairOutcome) -> dict[str, Any]:
    return {
        "table": str(outcome.table),
        "keys": outcome.repaired,
        "differences": [{"tenant": d.tenant, **d.counts} for d in outcome.differences],
        "not_repaired": outcome.uncompared or _left_alone(outcome),
        "detached": [d.as_dict() for d in outcome.detached],
    }


def _left_alone(outcome: RepairOutcome) -> str | None:
    """Why some of what differs was not repaired."""
    if outcome.lost is not None:
        kinds = (MIXED, DIFFERS, MORE, SURPLUS)
        return outcome.lost if _keys(outcome.differences, kinds) else None
    if _keys(outcome.differences, TOO_MUCH) and not outcome.excess:
        return f"it has more than its source gives; `--allow-destructive {outcome.table.name}` takes that out"
    return None
