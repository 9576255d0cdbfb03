"""Rows in: the engine parses a batch once, into a stage; checks happen there, before anything is stored.

Only the engine decides whose row it is. The stage keeps the tenant as the text that arrived, so that a value which
is missing, null, out of range or not canonical is seen as it is, and refused. A bad row refuses its whole batch.
"""

from __future__ import annotations

import queue
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from engine.compiler.build import Build
from engine.compiler.scope import base_type, tenant_literal
from engine.errors import (
    BAD_ROW,
    BAD_TENANT_VALUE,
    BUSY,
    FOREIGN_TENANT,
    NOT_WRITABLE,
    UNKNOWN_DATASOURCE,
    UNREACHABLE,
    RookeryError,
)
from engine.plan.state import Snapshot, Workspace
from engine.schema import Name, literal, quote
from engine.serve.lines import bad_row, check_header, line_of
from engine.serve.staging import Stage, Staged, checks, has_long_number, stage_ddl, stage_of, tenant_kind
from engine.warehouse import ddl
from engine.warehouse.port import STRICT, Input

log = structlog.get_logger("rookery.ingest")

PARSING: dict[str, int | str] = {
    "input_format_skip_unknown_fields": 1,
    # Null means absent: the column's default. The tenant is staged so that null stays null, and is refused.
    "input_format_null_as_default": 1,
    "date_time_input_format": "best_effort",
    "date_time_overflow_behavior": "throw",
    "input_format_allow_errors_num": 0,
    "max_insert_threads": 1,
    "async_insert": 0,
}
SMALL = 1 << 20
"""Batches up to this many bytes are parsed and stored on one thread, which is faster."""
ONE_THREAD = {"max_threads": 1}


class Ingestion:
    """Appends batches to datasources."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._database = f"{workspace.name}_stage"
        self._free: dict[str, queue.SimpleQueue[Name]] = {}
        self._made: dict[str, int] = {}
        self._lock = threading.Lock()
        workspace.warehouse.execute(ddl.drop_database(self._database))
        workspace.warehouse.execute(ddl.create_database(self._database))

    def append(self, name: str, body: bytes, format: Input, bound_tenant: str | None = None) -> int:
        """Store a batch whole, or nothing of it. Returns its rows.

        `bound_tenant` is the tenant that the token may write for. Raises RK5001 or RK5002 naming the line, RK5003
        for another tenant's row, RK5005 for an unknown datasource.
        """
        snapshot = self._workspace.current
        stage = _stage_of(snapshot, name, format is not Input.PARQUET and has_long_number(body))
        if not body.strip():
            return 0
        if format is Input.CSV:
            check_header({c.name for c in stage.columns}, body)
        with self._slot(stage) as table:
            rows = self._parse(stage, table, body, format)
            if rows:
                try:
                    self._store(snapshot.build, stage, table, bound_tenant, small=len(body) <= SMALL)
                except RookeryError as exc:
                    self._check(stage, table, body, format, bound_tenant)
                    raise _undelivered(exc) from exc
        return rows

    def _parse(self, stage: Stage, table: Name, body: bytes, format: Input) -> int:
        settings = PARSING | ({"input_format_parallel_parsing": 0, **ONE_THREAD} if len(body) <= SMALL else {})
        try:
            return self._workspace.warehouse.insert(table.sql(), body, format, (), settings)
        except RookeryError as exc:
            if exc.code.status >= 500:
                raise
            raise bad_row(exc, body, format) from exc

    def _check(self, stage: Stage, table: Name, body: bytes, format: Input, bound: str | None) -> None:
        """Refuse the batch if any row is not what landing takes, naming the first."""
        problems = checks(stage, bound)
        clauses = ", ".join(f"countIf(NOT ({check}))" for _, check in problems) or "0"
        counts = self._workspace.warehouse.query(f"SELECT {clauses} FROM {table.sql()}").rows[0]
        for (staged, check), bad in zip(problems, counts, strict=False):
            if bad:
                raise self._refusal(stage, table, staged, check, body, format, bound)

    def _refusal(
        self, stage: Stage, table: Name, staged: Staged, check: str, body: bytes, format: Input, bound: str | None
    ) -> RookeryError:
        found = self._workspace.warehouse.query(
            f"SELECT n, v FROM (SELECT rowNumberInAllBlocks() AS n, toString({staged.value}) AS v, {check} AS ok "
            f"FROM {table.sql()}) WHERE NOT ok ORDER BY n LIMIT 1",
            None,
            {"max_threads": 1},
        ).rows[0]
        where = line_of(body, format, int(found[0]) + 1)
        value = "missing or null" if found[1] is None else f"`{str(found[1])[:80]}`"
        if staged is not stage.tenant:
            return RookeryError(
                BAD_ROW, f"{where}: {value} does not fit column `{staged.column}`", hint="nothing was stored"
            )
        if bound is not None and found[1] is not None:
            return RookeryError(
                FOREIGN_TENANT, f"{where}: the token writes for one tenant only", hint="nothing was stored"
            )
        kind = tenant_kind(stage.source)
        return RookeryError(
            BAD_TENANT_VALUE,
            f"{where}: tenant `{staged.column}` is {value}, which is no canonical {base_type(kind)}",
            hint="nothing was stored; integers have no sign or leading zeros, text is never empty",
        )

    def _store(self, build: Build, stage: Stage, table: Name, bound: str | None, *, small: bool) -> None:
        target = Name(build.workspace, stage.source.name).sql()
        columns = ", ".join(quote(c.name) for c in stage.source.columns)
        expressions = [c.taken for c in stage.columns]
        if bound is not None and stage.tenant is not None:
            kind = tenant_kind(stage.source)
            expressions[stage.columns.index(stage.tenant)] = f"CAST({tenant_literal(kind, bound)} AS {kind})"
        token = literal(f"in:{secrets.token_hex(8)}")
        given = {**STRICT, "insert_deduplication_token": token, **(ONE_THREAD if small else {})}
        settings = ", ".join(f"{k} = {v}" for k, v in given.items())
        bad = " OR ".join(f"ifNull(NOT ({check}), 0)" for _, check in checks(stage, bound)) or "0"
        # The batch is one block, so a row that throws keeps all of it out; which row it was is asked afterwards.
        rows = f"SELECT {', '.join(expressions)} FROM {table.sql()} WHERE throwIf({bad}) = 0"
        with self._workspace.fence.shared():
            self._workspace.warehouse.execute(f"INSERT INTO {target} ({columns}) SETTINGS {settings} {rows}")

    @contextmanager
    def _slot(self, stage: Stage) -> Iterator[Name]:
        """A stage table of one's own, empty; at most as many per datasource as there are writers."""
        free, fresh = self._claim(stage)
        if fresh is not None:
            try:
                self._workspace.warehouse.execute(stage_ddl(stage, fresh))
            except BaseException:
                with self._lock:
                    self._made[stage.identity] -= 1
                raise
        try:
            table = fresh or free.get(timeout=self._workspace.settings.borrow_timeout)
        except queue.Empty as exc:
            raise RookeryError(BUSY, "too many appends at once", headers={"Retry-After": "1"}) from exc
        try:
            yield table
        finally:
            self._release(stage, free, table)

    def _release(self, stage: Stage, free: queue.SimpleQueue[Name], table: Name) -> None:
        """Give an emptied table back; one that cannot be emptied is never used again."""
        try:
            self._workspace.warehouse.execute(f"TRUNCATE TABLE {table.sql()}")
        except RookeryError as exc:
            log.error("a stage could not be emptied", table=str(table), error=exc.message)
            with self._lock:
                self._made[stage.identity] -= 1
        else:
            free.put(table)

    def _claim(self, stage: Stage) -> tuple[queue.SimpleQueue[Name], Name | None]:
        with self._lock:
            free = self._free.setdefault(stage.identity, queue.SimpleQueue())
            made = self._made.get(stage.identity, 0)
            if not free.empty() or made >= self._workspace.settings.writers:
                return free, None
            self._made[stage.identity] = made + 1
            return free, Name(self._database, f"{stage.source.name[:80]}_{stage.identity}_{secrets.token_hex(4)}")


def _stage_of(snapshot: Snapshot, name: str, exact: bool) -> Stage:
    known = snapshot.memo.get(("stage", name, exact))
    if known is None:
        relation = snapshot.build.relations.get(name)
        if relation is None:
            raise RookeryError(UNKNOWN_DATASOURCE, f"there is no datasource `{name}`", hint="rookery datasource ls")
        fed = next((p.name for p in snapshot.build.materialized() if p.target and p.target.name == name), None)
        if fed is not None:
            raise RookeryError(NOT_WRITABLE, f"`{name}` is filled by pipe `{fed}` and takes no rows from outside")
        known = snapshot.memo[("stage", name, exact)] = stage_of(snapshot.build.datasources[name], exact)
    return known  # type: ignore[return-value]


def _undelivered(exc: RookeryError) -> RookeryError:
    """A failure behind landing, whose text may name views and nests that the sender does not know of."""
    if exc.code in (BUSY, UNREACHABLE):
        return exc
    return RookeryError(
        exc.code,
        "the rows fit and are in landing, but a view on the datasource failed on them",
        hint="do not send them again; the server's log tells which view, and whoever wrote the pipe can mend it",
        detail=exc.detail or exc.message,
    )


def describe_rows(rows: int) -> dict[str, Any]:
    """The Events API's answer."""
    return {"successful_rows": rows, "quarantined_rows": 0}
