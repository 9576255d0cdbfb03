"""Inserts the rows of a log range into nests, from their stages if these still exist, or from landing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, wait
from contextlib import nullcontext
from dataclasses import dataclass

from engine.compiler.scope import is_encoded, tenant_literal
from engine.errors import BUSY, UNKNOWN_DATASOURCE, RookeryError
from engine.fanout.failed_writes import nest_tables_fed_by, remove_damaged_parts
from engine.fanout.handover import CommittedBatch
from engine.fanout.landing_log import ROW_TUPLE, LandingLog, nest_copies
from engine.fanout.offsets import LogRange
from engine.fanout.staged_appends import StagedAppends
from engine.schema import Name, nest_database, quote
from engine.warehouse import ddl
from engine.warehouse.error_numbers import TOO_MANY_PARTS
from engine.warehouse.errors import exceeds_own_memory, is_lost_stage
from engine.workspace.workspace import Workspace

COPY_STAGE_TENANTS = 8
"""With at least this many tenants, a stage is first copied with landing's types, which is faster than converting for
each tenant.
"""
ROWS_MEMORY_FACTOR = 8
"""A delivery of rows with many bytes may take this many times as much memory, even if that exceeds the limit."""

Failures = dict[str, str]
"""Errors of inserts, by tenant."""
Chosen = Callable[[set[str]], set[str]]
"""Chooses those tenants with rows in a range that receive them now."""


@dataclass(frozen=True, slots=True)
class _StagedRows:
    """The rows of one or several batches in one table, as SQL."""

    table: str
    values: str
    """The values of landing's columns."""
    tenant: str
    """The tenant's id as a string."""
    condition: str
    """The condition of the rows that were stored."""

    @staticmethod
    def of(batch: CommittedBatch) -> _StagedRows:
        """The rows of a batch that has a stage."""
        return _StagedRows(batch.table, batch.values, batch.tenant, batch.condition)


class NestWriter:
    """Inserts log ranges of one landing datasource into nests: one block for each tenant, under the range's token.

    Called with the worker's delivery lock held. The inserts of several tenants run in the pool's threads, which hold
    the insert lock.
    """

    def __init__(self, workspace: Workspace, datasource: str, pool: Executor) -> None:
        self._workspace = workspace
        self.datasource = datasource
        self._pool = pool
        self._merged: tuple[str, Name] | None = None
        """The columns and the name of the table in which stages are merged."""

    def log(self) -> LandingLog:
        """The datasource's log, according to the current build. Raises RK5005 if the datasource no longer exists."""
        relation = self._workspace.current.build.relations.get(self.datasource)
        if relation is None or relation.tenant is None:
            raise RookeryError(UNKNOWN_DATASOURCE, f"datasource `{self.datasource}` no longer exists")
        return LandingLog(self._workspace.warehouse, self._workspace.name, relation)

    def copies(self) -> dict[str, Name | None]:
        """Tenants whose nest has a copy of the datasource, each with the view that fills it; see `nest_copies`."""
        return nest_copies(self._workspace, self.datasource)

    def insert_batches(self, log_range: LogRange, batches: Sequence[CommittedBatch], choose: Chosen) -> Failures:
        """Insert batches from their stages, or from landing if a stage no longer exists or has other columns, or if
        their stages together take too much memory.
        """
        landing = self.log()
        if not all(b.table and b.columns == landing.relation.columns for b in batches):
            return self.insert_range(log_range, choose)
        try:
            staged, present = self._staged(landing, batches, choose)
        except RookeryError as exc:
            if is_lost_stage(exc) or exceeds_own_memory(exc):
                return self.insert_range(log_range, choose)
            raise
        encoded = is_encoded(landing.relation)

        def rows(owner: str) -> str:
            tenant_value = tenant_literal("String", owner)
            of_tenant = f"FROM {staged.table} WHERE ({staged.condition}) AND {staged.tenant} = {tenant_value}"
            if not encoded:
                return f"SELECT {staged.values} {of_tenant}"
            row = f"SELECT tuple({staged.values}) AS {ROW_TUPLE} {of_tenant}"
            return f"SELECT {landing.own_values(ROW_TUPLE)} FROM ({row})"

        return self._spread(landing, log_range, present, rows)

    def _staged(
        self, landing: LandingLog, batches: Sequence[CommittedBatch], choose: Chosen
    ) -> tuple[_StagedRows, set[str]]:
        """The rows of batches with stages, and the tenants that receive them now."""
        staged = self._merge(landing, batches) if len(batches) > 1 else _StagedRows.of(batches[0])
        present = choose(self._tenants(staged))
        if len(batches) == 1 and len(present) >= COPY_STAGE_TENANTS:
            staged = self._merge(landing, batches)
        return staged, present

    def insert_range(self, log_range: LogRange, choose: Chosen) -> Failures:
        """Insert a range from landing into the nests of the chosen tenants."""
        landing = self.log()
        return self._spread(
            landing, log_range, choose(landing.tenants(log_range)), lambda tenant: landing.rows_of(tenant, log_range)
        )

    def insert_range_for(self, log_range: LogRange, tenants: set[str]) -> Failures:
        """Insert a range from landing into some tenants' nests. A single tenant is not checked for rows first."""
        if len(tenants) > 1:
            return self.insert_range(log_range, lambda present: present & tenants)
        landing = self.log()
        return self._spread(landing, log_range, tenants, lambda tenant: landing.rows_of(tenant, log_range))

    def appends_with_rows_of(self, batch: CommittedBatch, tenants: Iterable[str]) -> frozenset[int] | None:
        """Positions of a batch's appends with rows of one of the tenants; None if this cannot be determined."""
        if not batch.table:
            return None
        staged = StagedAppends(batch.table, batch.tenant, batch.condition, batch.appends)
        return staged.with_rows_of(self._workspace.warehouse, tenants)

    def _tenants(self, staged: _StagedRows) -> set[str]:
        """Tenants with rows in a stage."""
        result = self._workspace.warehouse.query(
            f"SELECT DISTINCT assumeNotNull({staged.tenant}) FROM {staged.table} WHERE {staged.condition}",
            None,
            {"max_threads": 1},
        )
        return {str(row[0]) for row in result.rows}

    def _merge(self, landing: LandingLog, batches: Sequence[CommittedBatch]) -> _StagedRows:
        """Copy the rows of the batches into one table, with landing's types and each row's tenant."""
        columns = [quote(c) for c in landing.relation.columns]
        merged = self._merge_table()
        parts = " UNION ALL ".join(
            f"SELECT {b.values}, {b.tenant} FROM {b.table} WHERE {b.condition}" for b in batches
        )
        try:
            self._workspace.warehouse.execute(f"TRUNCATE TABLE {merged.sql()}")
        except RookeryError:
            # A ClickHouse server loses it when it is restarted.
            self._merged = None
            raise
        self._workspace.warehouse.execute(f"INSERT INTO {merged.sql()} ({', '.join(columns)}, _rk_tenant) {parts}")
        return _StagedRows(merged.sql(), ", ".join(columns), "_rk_tenant", "1")

    def _merge_table(self) -> Name:
        """An in-memory table with landing's columns, and the tenant as a string."""
        source = self._workspace.current.build.datasources[self.datasource]
        columns = ", ".join(f"{quote(c.name)} {c.type}" for c in source.columns)
        if self._merged is None or self._merged[0] != columns:
            name = Name(f"{self._workspace.name}_stage", f"_rk_flush_{self.datasource}"[:150])
            self._workspace.warehouse.execute(ddl.drop_table(name))
            self._workspace.warehouse.execute(
                f"CREATE TABLE {name.sql()} ({columns}, _rk_tenant String) ENGINE = Memory"
            )
            self._merged = (columns, name)
        return self._merged[1]

    def _spread(
        self, landing: LandingLog, log_range: LogRange, present: set[str], rows: Callable[[str], str]
    ) -> Failures:
        """Insert each tenant's rows into its nest, several at a time. `rows` returns the SELECT of one tenant's rows.

        The limit on memory is for what a view makes of the rows. If the rows themselves need more, they get it: a
        range cannot be divided once its delivery has begun.
        """
        limit = self._workspace.settings.delivery_memory(len(landing.relation.columns))
        failed, exceeding = self._insert_each(landing, log_range, dict.fromkeys(present, limit), rows)
        larger = {t: memory for t in exceeding if (memory := self._needed(landing, rows(t))) is not None}
        if not larger:
            return failed
        failed_again, _ = self._insert_each(landing, log_range, larger, rows)
        return {t: why for t, why in failed.items() if t not in larger} | failed_again

    def _needed(self, landing: LandingLog, rows: str) -> int | None:
        """The memory, in bytes, that a delivery of rows may take; None if that is not more than the limit."""
        limit = self._workspace.settings.delivery_memory(len(landing.relation.columns))
        needed = ROWS_MEMORY_FACTOR * landing.bytes_of(rows)
        return needed if needed > limit else None

    def _insert_each(
        self, landing: LandingLog, log_range: LogRange, memory: Mapping[str, int], rows: Callable[[str], str]
    ) -> tuple[Failures, list[str]]:
        """Insert the rows of the tenants in `memory`, which has the limit for each, in bytes.

        Returns the failures, and the tenants whose limit was exceeded. Raises RK6003 if the database has no free
        connection; the whole range is then delivered again.
        """
        failed: Failures = {}
        exceeding: list[str] = []
        with_merges: list[str] = []
        insert_lock = self._workspace.insert_lock
        # If this thread holds the lock exclusively, pool threads must not ask for it: this thread waits for them.
        guard = nullcontext if insert_lock.is_owner else insert_lock.shared

        def insert(tenant: str) -> None:
            # Runs in a pool thread, or in the current thread for a single tenant.
            try:
                with guard():
                    damage, has_merges = self._insert(landing, log_range.token, tenant, rows(tenant), memory[tenant])
            except RookeryError as exc:
                if exc.code is BUSY and getattr(exc, "engine_code", None) != TOO_MANY_PARTS:
                    raise
                failed[tenant] = exc.detail or exc.message
                if exceeds_own_memory(exc):
                    exceeding.append(tenant)
                return
            if has_merges:
                with_merges.append(tenant)
            if damage:
                failed[tenant] = f"the engine stored a damaged part: {damage}"

        if len(memory) == 1:
            insert(next(iter(memory)))
        else:
            running = [self._pool.submit(insert, t) for t in sorted(memory)]
            # All of them end before an error is raised, because the range is then delivered again and must not run
            # twice at the same time.
            wait(running)
            for delivery in running:
                delivery.result()
        if with_merges:
            with insert_lock.exclusive():
                self._workspace.warehouse.undo_merges()
        if failed:
            # They are retried with the same token, which a table may remember although it has not stored the rows.
            with insert_lock.exclusive():
                self._workspace.warehouse.forget_unstored_tokens()
        return failed, exceeding

    def _insert(self, landing: LandingLog, token: str, tenant: str, rows: str, memory: int) -> tuple[str, bool]:
        """Insert a tenant's rows, with at most `memory` bytes.

        Returns a description of removed damaged parts, and whether merges must be undone.
        """
        database = nest_database(self._workspace.name, tenant)
        tables = nest_tables_fed_by(self._workspace, database, self.datasource)
        self._workspace.warehouse.note_parts(tables)
        landing.insert_into_nest(database, token, rows, memory)
        damaged, has_merges = remove_damaged_parts(self._workspace, tables)
        return next(iter(damaged.values()), ""), has_merges
