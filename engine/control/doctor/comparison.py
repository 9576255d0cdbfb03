"""Compares a derived table with its sources, key by key.

The table's contents and the position of its sources are read at the same moment, while inserts are blocked. The
contents are cloned as parts, without copying data. Then a second table is filled with the results of the views for
the sources' blocks up to that position. The two tables are compared in portions that fit into memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from engine.compiler.views import in_block_range
from engine.control.doctor.comparable_columns import ComparableColumns
from engine.control.doctor.derived_tables import Derived
from engine.control.doctor.determined_columns import DeterminedColumns
from engine.control.doctor.differences import DIFFERS, LESS, MISSING, MIXED, MORE, SHORTAGES, SURPLUS, Difference
from engine.control.doctor.findings import Context
from engine.fanout.router import router_of
from engine.plan.backfill import block_ranges
from engine.plan.coverage import Coverage
from engine.schema import Name, declared_ttl, literal, quote
from engine.warehouse import ddl
from engine.warehouse.errors import NOT_IMPLEMENTED, EngineError

COMPARED_ROWS = 1_000_000
"""Rows of a table that are compared at a time."""
NOTHING_GROWS = "no compared column shows whether the table has more rows than its source"
"""Why a source does not prove what its target should contain."""
_TIME = re.compile(r"DateTime64\((\d)\)|DateTime(?![\w(])")
"""A type of times without a time zone of its own."""
_FLOATS = ("Float32", "Float64", "Nullable(Float32)", "Nullable(Float64)")


@dataclass(frozen=True, slots=True)
class ScratchTables:
    """The tables of one comparison, in the scratch database."""

    expected: Name
    """The results of the views over the sources."""
    actual: Name
    """A clone of the compared table."""
    differing: Name
    """Differing keys: `h` is the hash, `k` the key as a string, `t` the tenant, `what` the kind of difference."""
    fresh: Name
    """Rows that a repair adds to the table."""
    zoned: Name
    """A copy of a source in another time zone."""

    @classmethod
    def of(cls, workspace: str) -> ScratchTables:
        return cls(
            *(Name(f"{workspace}_scratch", f"_rk_{name}") for name in ("should", "there", "keys", "fresh", "zoned"))
        )

    def all(self) -> tuple[Name, ...]:
        return self.expected, self.actual, self.differing, self.fresh, self.zoned


class Comparison:
    """The comparison of one derived table with its sources. `close` drops its scratch tables."""

    def __init__(self, context: Context, derived: Derived, determined: DeterminedColumns, coverage: Coverage) -> None:
        self.columns = determined.columns
        self.derived = derived
        self.tables = ScratchTables.of(context.workspace.name)
        self.heads: dict[Name, int] = {}
        """The newest compared block of each source."""
        self._context = context
        self._workspace = context.workspace
        self._warehouse = context.workspace.warehouse
        self._merging = determined.merging
        self._coverage = coverage

    def differences(self) -> list[Difference] | None:
        """Compare from the beginning; None while the table's tenant lags, because some rows have not arrived yet."""
        self._warehouse.execute(ddl.create_database(self.tables.expected.database))
        # A comparison that was killed has left its tables.
        self.close()
        if not self._freeze():
            return None
        self._compute_expected()
        return list(self._compare())

    def close(self) -> None:
        """Drop the scratch tables."""
        self._warehouse.execute(ddl.drop_table(*self.tables.all()))

    def agrees_in(self, zone: str) -> bool:
        """Whether the table equals the results of its views if times are divided into days in another time zone.

        Call it after `differences`. It copies the sources.
        """
        self._warehouse.execute(f"TRUNCATE TABLE {self.tables.expected.sql()}")
        self._warehouse.execute(ddl.drop_table(self.tables.differing))
        for view in self.derived.views:
            source = view.log or view.source
            self._copy_in_zone(source, zone)
            columns = ", ".join(map(quote, view.columns))
            rows = in_block_range(view.backfill, 0, 1 << 62).replace(source.sql(), self.tables.zoned.sql())
            self._warehouse.execute(f"INSERT INTO {self.tables.expected.sql()} ({columns}) {rows}")
        return not list(self._compare())

    def _copy_in_zone(self, source: Name, zone: str) -> None:
        """Copy the compared rows of a source into a table whose times belong to a time zone."""
        table = self._context.live.tables[source]
        stored = [c for c in table.columns if c.default_kind not in ("ALIAS", "EPHEMERAL")]
        columns = ", ".join(f"{quote(c.name)} {_TIME.sub(partial(_in_zone, zone), c.type)}" for c in stored)
        names = ", ".join(quote(c.name) for c in stored)
        zoned = self.tables.zoned.sql()
        self._warehouse.execute(ddl.drop_table(self.tables.zoned))
        self._warehouse.execute(f"CREATE TABLE {zoned} ({columns}) ENGINE = MergeTree ORDER BY tuple()")
        self._warehouse.execute(
            f"INSERT INTO {zoned} ({names}) SELECT {names} FROM {source.sql()} "
            f"WHERE _block_number <= {self.heads[source]}"
        )

    @contextmanager
    def inserts_held(self) -> Iterator[bool]:
        """Block inserts. Yields whether every row in landing has also reached the table.

        Rows reach a nest through the fan-out workers, so each worker first delivers its pending rows.
        """
        with ExitStack() as stack:
            stack.enter_context(self._workspace.view_lock.changing())
            # An uncertain batch may be in landing and not in the table.
            self._workspace.view_lock.completion.complete_all()
            for name in self._context.snapshot.routed if self.derived.tenant is not None else ():
                worker = router_of(self._workspace).worker(name)
                if worker is None:
                    continue
                worker.drain()
                if self.derived.tenant in {t for group in worker.position().lagging for t in group.members}:
                    yield False
                    return
            yield True

    def head(self, source: Name) -> int:
        """The newest block of a source. It is read from the rows: `system.parts` lacks tables that are not loaded."""
        return int(self._warehouse.query(f"SELECT max(_block_number) FROM {source.sql()}").rows[0][0])

    def stored_columns(self) -> str:
        """The columns of the table that an INSERT stores, as SQL."""
        computed = ("MATERIALIZED", "ALIAS", "EPHEMERAL")
        return ", ".join(quote(c.name) for c in self.derived.table.columns if c.default_kind not in computed)

    def compute(self, after: dict[Name, int], upto: dict[Name, int]) -> None:
        """Add the views' results for the sources' blocks in (after, upto] to the expected rows.

        Blocks that an earlier query of a view processed are left out: the current query does not determine their
        results.
        """
        for view in self.derived.views:
            source = view.log or view.source
            columns = ", ".join(map(quote, view.columns))
            start = max(after[source], self._coverage.superseded(view) or 0)
            for first, last in block_ranges(self._warehouse, source, after=start):
                if first >= upto[source]:
                    break
                # Otherwise the engine would drop a block whose rows are equal to those of an earlier one.
                self._warehouse.execute(
                    f"INSERT INTO {self.tables.expected.sql()} ({columns}) SETTINGS deduplicate_insert = 'disable', "
                    f"max_insert_threads = 1 {in_block_range(view.backfill, first, min(last, upto[source]))}"
                )

    def why_unproven(self) -> str | None:
        """Why the sources do not prove what the table should contain; None if they do."""
        if self._says_too_little():
            return self._merging or NOTHING_GROWS
        for view in self.derived.views:
            # The coverage of a nest copy is not recorded: landing is its source and keeps its own log.
            reason = None if self.derived.is_copy else self._coverage.why_incomplete(view)
            if reason is not None:
                return reason
            source = self._context.live.tables.get(view.log or view.source)
            same_ttl = self.derived.is_copy and source is not None and source.ttl == self.derived.table.ttl
            if source is not None and source.ttl and not same_ttl:
                return f"rows of {source.name} expire by its TTL ({declared_ttl(source.ttl)})"
        return self._merging if self.columns.floor else None

    def _says_too_little(self) -> bool:
        """Whether the compared columns cannot show that a key has all of its rows.

        Sums of signed numbers can show it, as long as no column is left out of the comparison.
        """
        return not self.columns.growing and (not self.columns.values or bool(self.columns.skipped))

    def _freeze(self) -> bool:
        """Clone the table and note the position of its sources at the same moment; False while its tenant lags."""
        with self.inserts_held() as caught_up:
            if not caught_up:
                return False
            for source in {v.log or v.source for v in self.derived.views}:
                self.heads[source] = self.head(source)
            self._clone()
        return True

    def _clone(self) -> None:
        """Clone the table, or copy its rows: the engine cannot clone a table that was not loaded at its start."""
        actual, table = self.tables.actual.sql(), self.derived.table.name.sql()
        try:
            self._warehouse.execute(f"CREATE TABLE {actual} CLONE AS {table}")
        except EngineError as exc:
            if exc.engine_code != NOT_IMPLEMENTED:
                raise
            # The failed statement may have created the table.
            self.close()
            self._create_without_ttl(self.tables.actual)
            columns = self.stored_columns()
            self._warehouse.execute(
                f"INSERT INTO {actual} ({columns}) SETTINGS deduplicate_insert = 'disable' "
                f"SELECT {columns} FROM {table}"
            )

    def _create_without_ttl(self, name: Name) -> None:
        """Create a table like the compared one, whose rows do not expire during the comparison."""
        self._warehouse.execute(f"CREATE TABLE {name.sql()} AS {self.derived.table.name.sql()}")
        if self.derived.table.ttl:
            self._warehouse.execute(ddl.modify_ttl(name, ""))

    def _compute_expected(self) -> None:
        self._create_without_ttl(self.tables.expected)
        self.compute(dict.fromkeys(self.heads, 0), self.heads)

    def _compare(self) -> Iterator[Difference]:
        """Store the differing keys in a table, and count them by tenant."""
        self._warehouse.execute(
            f"CREATE TABLE {self.tables.differing.sql()} (h FixedString(16), k String, t String, what String) "
            "ENGINE = MergeTree ORDER BY h"
        )
        rows = max(self._row_count(self.tables.expected), self._row_count(self.tables.actual))
        portions = rows // COMPARED_ROWS + 1
        conditions = self._conditions()
        for portion in range(portions):
            self._compare_portion(conditions, portion, portions)
        kinds = ", ".join(map(literal, self._reported_kinds()))
        result = self._warehouse.query(
            f"SELECT t, what, count(), min(k) FROM {self.tables.differing.sql()} WHERE what IN ({kinds}) "
            "GROUP BY t, what ORDER BY t, what"
        )
        by_tenant: dict[str, Difference] = {}
        for tenant, kind, count, example in result.rows:
            empty = Difference(self.derived.table.name, tenant or self.derived.tenant, {}, example)
            by_tenant.setdefault(tenant, empty).counts[kind] = int(count)
        yield from by_tenant.values()

    def _compare_portion(self, conditions: _Conditions, portion: int, portions: int) -> None:
        """Store the differing keys among those whose hash falls into one portion."""
        expected, actual = (
            self._values_by_key(self.columns, name.sql(), portion, portions)
            for name in (self.tables.expected, self.tables.actual)
        )
        joined = f"({expected}) AS e FULL OUTER JOIN ({actual}) AS a ON e._rk_h = a._rk_h"
        if self.columns.idempotent:
            # Merging the states of both sides shows whether one contains the other: the union then equals it.
            both = f"(SELECT * FROM {self.tables.expected.sql()} UNION ALL SELECT * FROM {self.tables.actual.sql()})"
            union = self._values_by_key(replace(self.columns, zeros=False), both, portion, portions)
            joined = (
                f"({union}) AS u LEFT JOIN ({expected}) AS e ON u._rk_h = e._rk_h "
                f"LEFT JOIN ({actual}) AS a ON u._rk_h = a._rk_h"
            )
        self._warehouse.execute(
            f"INSERT INTO {self.tables.differing.sql()} "
            "SELECT if(e._rk_one, e._rk_h, a._rk_h), if(e._rk_one, e._rk_k, a._rk_k), "
            "if(e._rk_one, e._rk_tenant, a._rk_tenant), "
            f"multiIf(NOT a._rk_one, '{MISSING}', NOT e._rk_one, '{SURPLUS}', "
            f"({conditions.less}) AND ({conditions.more}), '{MIXED}', "
            f"{conditions.more}, '{MORE}', {conditions.less}, '{LESS}', '{DIFFERS}') "
            f"FROM {joined} WHERE e._rk_one != a._rk_one OR {conditions.differ} SETTINGS join_use_nulls = 0"
        )

    def _conditions(self) -> _Conditions:
        """Conditions on the values of keys that exist on both sides: `e` is the expected value, `a` the actual one,
        `u` their union.
        """
        tolerances = self._tolerances()
        less, more, differ = ["0"], ["0"], ["0"]
        for n, (name, _) in enumerate(self.columns.values):
            expected, actual, union = f"e._rk_v{n}", f"a._rk_v{n}", f"u._rk_v{n}"
            short, over = _less(actual, expected), _less(expected, actual)
            if name in self.columns.idempotent:
                short, over = _unequal(union, actual), _unequal(union, expected)
            less += [short] if name in self.columns.growing else []
            more += [over] if name in self.columns.growing - self.columns.floor else []
            if name in self.columns.floor:
                differ.append(short)
            elif n in tolerances:
                differ.append(_far(expected, actual, tolerances[n]))
            else:
                differ.append(_unequal(expected, actual))
        return _Conditions(*(" OR ".join(terms) for terms in (less, more, differ)))

    def _reported_kinds(self) -> tuple[str, ...]:
        """Kinds of difference that are faults, or may be."""
        if any(self._coverage.superseded(v) is not None for v in self.derived.views):
            return SHORTAGES
        # A source whose engine merges rows no longer has those that it replaced or collapsed, but the table was
        # computed from them too.
        return (*SHORTAGES, DIFFERS, MORE) if self._merging else (*SHORTAGES, DIFFERS, MORE, SURPLUS)

    def _values_by_key(self, columns: ComparableColumns, table: str, portion: int, portions: int) -> str:
        """A SELECT of the compared values of each key.

        Its aliases have reserved names, because an alias hides the column of the same name.
        """
        column = self.derived.tenant_column
        tenant = f"toString({quote(column)})" if column else "''"
        values = "".join(f", {sql} AS _rk_v{n}" for n, (_, sql) in enumerate(columns.values))
        where = columns.living
        if portions > 1:
            where += f" AND cityHash64({columns.key}) % {portions} = {portion}"
        zeros = " AND ".join(f"_rk_v{n} = 0" for n in range(len(columns.values))) if columns.zeros else ""
        having = f" HAVING NOT ({zeros})" if zeros else ""
        return (
            f"SELECT 1 AS _rk_one, any({columns.text}) AS _rk_k, sipHash128({columns.key}) AS _rk_h, "
            f"any({tenant}) AS _rk_tenant{values} FROM {table} WHERE {where} GROUP BY {columns.key}{having}"
        )

    def _tolerances(self) -> dict[int, float]:
        """How far values that are floating-point numbers may differ, relative to their size, by their positions.

        Each addition rounds, so a sum depends on the order of rows; so does storing the sum in a smaller type.
        """
        select = self._values_by_key(self.columns, self.tables.expected.sql(), 0, 1)
        types = {str(row[0]): str(row[1]) for row in self._warehouse.query(f"DESCRIBE ({select})").rows}
        small = {
            c.name
            for c in self.derived.table.columns
            if "Float32" in c.type and not c.type.startswith("AggregateFunction(")
        }
        return {
            n: 1e-4 if name in small else 1e-9
            for n, (name, _) in enumerate(self.columns.values)
            if types[f"_rk_v{n}"] in _FLOATS
        }

    def _row_count(self, name: Name) -> int:
        return int(self._warehouse.query(f"SELECT count() FROM {name.sql()}").rows[0][0])


def _in_zone(zone: str, match: re.Match[str]) -> str:
    """A type of times with a time zone."""
    return f"DateTime64({match[1]}, {literal(zone)})" if match[1] else f"DateTime({literal(zone)})"


@dataclass(frozen=True, slots=True)
class _Conditions:
    """SQL conditions on one key."""

    less: str
    """The table has lower values or fewer rows than expected for the key."""
    more: str
    """The table has higher values or more rows than expected for the key."""
    differ: str
    """Some value differs."""


def _less(one: str, other: str) -> str:
    """Whether a value is less than another one. NULL, the sum of no rows, is less than any number."""
    return f"ifNull({one} < {other}, isNull({one}) AND isNotNull({other}))"


def _unequal(one: str, other: str) -> str:
    return f"ifNull({one} != {other}, isNull({one}) != isNull({other}))"


def _far(one: str, other: str, tolerance: float) -> str:
    """Whether two floating-point numbers differ by more than a tolerance."""
    distance = f"abs({one} - {other})"
    near = f"isFinite({distance}) AND {distance} <= {tolerance} * greatest(abs({one}), abs({other}))"
    same = f"{one} = {other} OR isNaN({one}) AND isNaN({other}) OR {near}"
    return f"ifNull(NOT ({same}), isNull({one}) != isNull({other}))"
