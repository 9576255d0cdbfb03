"""Comparing derived tables with their sources, and delivering what they lack.

A table's content and the position of its source are taken at one moment, behind the fence: the content as a clone of
its parts, which costs no copy. The view's query over the source's blocks up to there, range by range, then says in a
table of its own what should be there. Both are compared key by key, in portions that fit into memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from engine.compiler.storage import INLET
from engine.compiler.views import bounded, nest_schema
from engine.control.fanout import out_of_step
from engine.control.findings import Patient
from engine.control.planning import desired_schema
from engine.control.shapes import Shape, shape_of
from engine.errors import RookeryError
from engine.fanout.router import router_of
from engine.fanout.suspend import suspended
from engine.plan.coverage import Coverage
from engine.plan.history import block_ranges
from engine.plan.state import RegistryJournal, Workspace
from engine.schema import Name, Table, View, literal, quote
from engine.warehouse import ddl
from engine.warehouse.catalog import read_schema

PORTION = 1_000_000
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
SUMMING = ("SummingMergeTree", "AggregatingMergeTree")
MISSING, DIFFERS, MORE, SURPLUS = "missing", "differs", "more", "surplus"


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
            DIFFERS: "have other values than the source gives",
            MORE: "have more than the source gives",
            SURPLUS: "are not in the source",
        }
        parts = [f"{n:,} keys {words[what]}" for what, n in sorted(self.counts.items())]
        return f"{', '.join(parts)}, for example {self.example[:200]}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What comparing a table came to; `skipped` are columns that were left out, `uncompared` why all of it was."""

    table: Name
    differences: tuple[Difference, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    uncompared: str | None = None
    repaired: int = 0
    lost: str | None = None
    """Why what differs cannot be repaired from the source."""


def derived_tables(patient: Patient, *, copies: bool = False) -> Iterator[Derived]:
    """Tables that are made from others, in order of data flow; nests' copies of landing first, if they are wanted."""
    build, workspace = patient.snapshot.build, patient.workspace
    down = {n["view"] for n in suspended(workspace)} | {
        h.view for h in RegistryJournal(workspace.registry).outstanding()
    }
    behind = set[str]().union(*out_of_step(workspace).values())
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
        if live is None or live.engine == INLET or whose in behind:
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
    """Compares one derived table with its sources, and repairs it. Its tables are dropped at the end."""

    def __init__(self, patient: Patient, derived: Derived) -> None:
        self._patient = patient
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

    def run(self, *, repair: bool = False) -> Outcome:
        """Compare, and repair if that is wanted."""
        table = self._derived.table
        shape = shape_of(table)
        if isinstance(shape, str):
            return Outcome(table.name, uncompared=shape)
        shape, why = self._comparable(shape)
        if why is not None:
            return Outcome(table.name, uncompared=why)
        try:
            self._warehouse.execute(ddl.create_database(self._should.database))
            self._clean()
            if not self._snapshot():
                return Outcome(table.name)
            self._expect()
            found = tuple(self._compare(shape))
            lost = self._lost(shape) if found else None
            outcome = Outcome(table.name, found, shape.skipped, lost=lost)
            if not found or not repair:
                return outcome
            return replace(outcome, repaired=self._repair(shape, whole=lost is None))
        finally:
            self._clean()

    def _clean(self) -> None:
        for name in (self._should, self._there, self._keys, self._fresh):
            self._warehouse.execute(ddl.drop_table(name))

    def _comparable(self, shape: Shape) -> tuple[Shape, str | None]:
        """The shape without columns that change from run to run, or why nothing can be compared."""
        skipped, values = dict(shape.skipped), list(shape.values)
        plain = self._derived.table.engine == "MergeTree"
        keys = {c.name for c in self._derived.table.columns if quote(c.name) in shape.key or c.name in shape.key}
        for view in self._derived.views:
            sql = bounded(view.backfill, 0, 1)
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

    def _plan(self, sql: str) -> str:
        found = self._warehouse.query(f"EXPLAIN actions = 1 {sql}")
        return "\n".join(str(row[0]) for row in found.rows)

    @contextmanager
    def _still(self) -> Iterator[bool]:
        """While no row comes in: whether everything that has landed has reached the table."""
        tenant = self._derived.tenant
        with ExitStack() as stack:
            stack.enter_context(self._workspace.fence.exclusive())
            self._workspace.fence.settle()
            for name in self._patient.snapshot.routed if tenant is not None else ():
                lane = router_of(self._workspace).lane(name)
                if lane is None:
                    continue
                lane.settled()
                strays = {t for c in lane.position().strays for t in c.members}
                if tenant in strays:
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
        for view in self._derived.views:
            source = view.log or view.source
            for first, last in block_ranges(self._warehouse, source, after=after[source]):
                if first >= upto[source]:
                    break
                columns = ", ".join(map(quote, view.columns))
                self._warehouse.execute(
                    f"INSERT INTO {self._should.sql()} ({columns}) SETTINGS deduplicate_insert = 'disable', "
                    f"max_insert_threads = 1 {bounded(view.backfill, first, min(last, upto[source]))}"
                )

    def _compare(self, shape: Shape) -> Iterator[Difference]:
        """Put keys that differ into a table, and sum them up by tenant."""
        self._warehouse.execute(
            f"CREATE TABLE {self._keys.sql()} (h FixedString(16), k String, t String, what String) "
            "ENGINE = MergeTree ORDER BY h"
        )
        rows = max(self._rows(self._should), self._rows(self._there))
        portions = rows // PORTION + 1
        values = [f"v{n}" for n in range(len(shape.values))]
        floats = self._floats(shape)
        differ = " OR ".join(_differ(v, n in floats) for n, v in enumerate(values)) or "0"
        more = " OR ".join(
            f"a.{v} > e.{v}" for v, (name, _) in zip(values, shape.values, strict=True) if name in shape.additive
        )
        for portion in range(portions):
            sides = [self._side(shape, name, portion, portions) for name in (self._should, self._there)]
            self._warehouse.execute(
                f"INSERT INTO {self._keys.sql()} "
                "SELECT if(e.one, e.h, a.h), if(e.one, e.k, a.k), if(e.one, e.t, a.t), "
                f"multiIf(NOT a.one, '{MISSING}', NOT e.one, '{SURPLUS}', {more or '0'}, '{MORE}', '{DIFFERS}') "
                f"FROM ({sides[0]}) AS e FULL OUTER JOIN ({sides[1]}) AS a ON e.h = a.h "
                f"WHERE e.one != a.one OR {differ} SETTINGS join_use_nulls = 0"
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

    def _telling(self) -> tuple[str, ...]:
        """Kinds of difference that mean a fault: a source that merges rows has fewer than went through its views."""
        tables = self._patient.live.tables
        engines = {tables[s].engine.partition("(")[0] for s in self._heads if s in tables}
        if engines <= {"MergeTree"}:
            return MISSING, DIFFERS, MORE, SURPLUS
        # Sums are what they were before a merge; what was replaced or collapsed is not.
        return (MISSING, DIFFERS) if engines <= {"MergeTree", *SUMMING} else (MISSING,)

    def _side(self, shape: Shape, name: Name, portion: int, portions: int) -> str:
        column = self._derived.tenant_column
        tenant = f"toString({quote(column)})" if column else "''"
        values = "".join(f", {sql} AS v{n}" for n, (_, sql) in enumerate(shape.values))
        where = shape.living
        if portions > 1:
            where += f" AND cityHash64({shape.key}) % {portions} = {portion}"
        zeros = " AND ".join(f"v{n} = 0" for n in range(len(shape.values))) if shape.zeros else ""
        having = f" HAVING NOT ({zeros})" if zeros else ""
        return (
            f"SELECT 1 AS one, any({shape.text}) AS k, sipHash128({shape.key}) AS h, any({tenant}) AS t{values} "
            f"FROM {name.sql()} WHERE {where} GROUP BY {shape.key}{having}"
        )

    def _floats(self, shape: Shape) -> set[int]:
        """Positions of values that are floating-point numbers, whose sums depend on the order of rows."""
        found = self._warehouse.query(f"DESCRIBE ({self._side(shape, self._should, 0, 1)})")
        types = {str(row[0]): str(row[1]) for row in found.rows}
        return {n for n in range(len(shape.values)) if "Float" in types[f"v{n}"] and "(" not in types[f"v{n}"]}

    def _rows(self, name: Name) -> int:
        return int(self._warehouse.query(f"SELECT count() FROM {name.sql()}").rows[0][0])

    def _lost(self, shape: Shape) -> str | None:
        """Why the sources may no longer have everything that the table was made from, or it cannot be told."""
        if not shape.additive:
            return "none of its columns tells whether it has more than its source"
        coverage = Coverage(self._warehouse, self._workspace.registry, self._patient.live)
        for view in self._derived.views:
            source = self._patient.live.tables.get(view.log or view.source)
            why = None if self._copied else coverage.lacking(view)
            if why is not None:
                return why
            if source is not None and source.ttl:
                return f"rows of {source.name} go by its TTL ({source.ttl})"
            if source is not None and source.engine != "MergeTree":
                return f"{source.name} merges its rows ({source.engine})"
        return None

    def _repair(self, shape: Shape, *, whole: bool) -> int:
        """Deliver keys that are missing; replace those that differ, if the sources are `whole`. How many keys."""
        table = self._derived.table
        wanted = (MISSING, DIFFERS) if whole else (MISSING,)
        some = f"(SELECT h FROM {self._keys.sql()} WHERE what IN ({', '.join(map(literal, wanted))}))"
        differing = f"(SELECT h FROM {self._keys.sql()} WHERE what = {literal(DIFFERS)})"
        ((count, replaced),) = self._warehouse.query(
            f"SELECT countIf(what IN ({', '.join(map(literal, wanted))})), countIf(what = {literal(DIFFERS)}) "
            f"FROM {self._keys.sql()}"
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
                f"SELECT {columns} FROM {self._should.sql()} WHERE sipHash128({shape.key}) IN {some}"
            )
            affected = self._affected(shape, differing) if whole and replaced else []
            if affected:
                self._warehouse.execute(
                    f"INSERT INTO {self._fresh.sql()} ({columns}) SETTINGS deduplicate_insert = 'disable' "
                    f"SELECT {columns} FROM {table.name.sql()} "
                    f"WHERE _partition_id IN ({', '.join(map(literal, affected))}) "
                    f"AND sipHash128({shape.key}) NOT IN {differing}"
                )
            self._put_in_place(set(affected))
        return int(count)

    def _affected(self, shape: Shape, keys: str) -> list[str]:
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
        RegistryJournal(self._workspace.registry).settle()
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


def _differ(value: str, float_: bool) -> str:
    if not float_:
        return f"(e.{value} != a.{value})"
    return (
        f"(isNaN(e.{value}) != isNaN(a.{value}) OR "
        f"abs(e.{value} - a.{value}) > 1e-9 * greatest(abs(e.{value}), abs(a.{value})))"
    )


def outcomes(patient: Patient, *, repair: bool = False, skip: Sequence[Name] = ()) -> Iterator[Outcome]:
    """Compare every derived table but those that are made from one of `skip`, and repair them if that is wanted.

    A table that cannot be read is an outcome as well.
    """
    for derived in derived_tables(patient, copies=repair):
        if any(v.source in skip for v in derived.views):
            continue
        try:
            yield Comparison(patient, derived).run(repair=repair)
        except RookeryError as exc:
            yield Outcome(derived.table.name, uncompared=f"it cannot be read: {exc.detail or exc.message}"[:500])


def repair(workspace: Workspace) -> dict[str, Any]:
    """Compare every copy and derived table with its source and deliver what is missing. What was done, as plain data.

    Keys that differ are replaced where the source still has everything; nothing else is taken out of a table.
    """
    with workspace.changes:
        snapshot = workspace.refresh()
        live = read_schema(workspace.warehouse, workspace.name)
        patient = Patient(workspace, snapshot, live, desired_schema(snapshot.build, snapshot))
        return {"repaired": [_told(o) for o in outcomes(patient, repair=True) if o.differences or o.uncompared]}


def _told(outcome: Outcome) -> dict[str, Any]:
    return {
        "table": str(outcome.table),
        "keys": outcome.repaired,
        "differences": [{"tenant": d.tenant, **d.counts} for d in outcome.differences],
        "not_repaired": outcome.lost or outcome.uncompared,
    }
