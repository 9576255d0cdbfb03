"""Rows in: the engine parses a batch once, into a stage; checks happen there, before anything is stored.

Only the engine decides whose row it is. The stage keeps the tenant as the text that arrived, so that a value which
is missing, null, out of range or not canonical is seen as it is, and refused. A bad row refuses its whole batch.
"""

from __future__ import annotations

import queue
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
    RookeryError,
)
from engine.plan.state import Snapshot, Workspace
from engine.project.model import Column, Datasource
from engine.schema import Name, fingerprint, literal, quote
from engine.warehouse import ddl
from engine.warehouse.port import STRICT, Input

log = structlog.get_logger("rookery.ingest")

PARSING: dict[str, int | str] = {
    "input_format_skip_unknown_fields": 1,
    "input_format_null_as_default": 0,
    "date_time_input_format": "best_effort",
    "input_format_allow_errors_num": 0,
    "max_insert_threads": 1,
    "async_insert": 0,
}
SMALL = 1 << 20
"""Batches up to this many bytes are parsed on one thread, which is faster."""

WIDE = {f"{u}Int{bits}": "Int64" for u in ("", "U") for bits in (8, 16, 32)} | {"Int64": "Int128", "UInt64": "Int128"}
"""Integers are staged wider than stored: the engine's parser wraps what does not fit, the check then sees it."""


@dataclass(frozen=True, slots=True)
class Staged:
    """One column on its way: its name and type in the stage, and the expression that landing takes."""

    name: str
    type: str
    default: str
    expression: str
    check: str | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """How a datasource's rows are staged."""

    source: Datasource
    columns: tuple[Staged, ...]
    tenant: Staged | None
    identity: str


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
        stage = _stage_of(snapshot, name)
        if not body.strip():
            return 0
        with self._slot(stage) as table:
            self._parse(stage, table, body, format)
            rows = self._check(stage, table, body, format, bound_tenant)
            if rows:
                self._store(snapshot.build, stage, table, bound_tenant)
        return rows

    def _parse(self, stage: Stage, table: Name, body: bytes, format: Input) -> None:
        settings = PARSING | ({"input_format_parallel_parsing": 0, "max_threads": 1} if len(body) <= SMALL else {})
        try:
            self._workspace.warehouse.insert(table.sql(), body, format, (), settings)
        except RookeryError as exc:
            if exc.code.status >= 500:
                raise
            raise _bad_row(exc, body, format) from exc

    def _check(self, stage: Stage, table: Name, body: bytes, format: Input, bound: str | None) -> int:
        """Count the rows; refuse the batch if any is not what landing takes, naming the first."""
        problems = [(c.name, c.check) for c in stage.columns if c.check]
        tenant = _tenant_check(stage, bound)
        clauses = ["count()", *(f"countIf(NOT ({check}))" for _, check in (*problems, *tenant))]
        counts = self._workspace.warehouse.query(f"SELECT {', '.join(clauses)} FROM {table.sql()}").rows[0]
        for (name, check), bad in zip((*problems, *tenant), counts[1:], strict=True):
            if bad:
                raise self._refusal(stage, table, name, check, body, format, bound)
        return int(counts[0])

    def _refusal(
        self, stage: Stage, table: Name, column: str, check: str, body: bytes, format: Input, bound: str | None
    ) -> RookeryError:
        found = self._workspace.warehouse.query(
            f"SELECT n, v FROM (SELECT rowNumberInAllBlocks() AS n, toString({quote(column)}) AS v, {check} AS ok "
            f"FROM {table.sql()}) WHERE NOT ok ORDER BY n LIMIT 1",
            None,
            {"max_threads": 1},
        ).rows[0]
        where = _line(body, format, int(found[0]) + 1)
        value = "missing or null" if found[1] is None else f"`{str(found[1])[:80]}`"
        if stage.tenant is None or column != stage.tenant.name:
            return RookeryError(
                BAD_ROW, f"{where}: {value} does not fit column `{column}`", hint="nothing was stored"
            )
        if bound is not None and found[1] is not None:
            return RookeryError(
                FOREIGN_TENANT, f"{where}: the token writes for one tenant only", hint="nothing was stored"
            )
        kind = next(c.type for c in stage.source.columns if c.name == stage.source.tenant_column)
        return RookeryError(
            BAD_TENANT_VALUE,
            f"{where}: tenant `{column}` is {value}, which is no canonical {base_type(kind)}",
            hint="nothing was stored; integers have no sign or leading zeros, text is never empty",
        )

    def _store(self, build: Build, stage: Stage, table: Name, bound: str | None) -> None:
        target = Name(build.workspace, stage.source.name).sql()
        columns = ", ".join(quote(c.name) for c in stage.source.columns)
        expressions = []
        for staged in stage.columns:
            text = staged.expression
            if bound is not None and stage.tenant is staged:
                kind = next(c.type for c in stage.source.columns if c.name == stage.source.tenant_column)
                text = f"CAST({tenant_literal(kind, bound)} AS {kind})"
            expressions.append(text)
        token = literal(f"in:{secrets.token_hex(8)}")
        settings = ", ".join(f"{k} = {v}" for k, v in {**STRICT, "insert_deduplication_token": token}.items())
        rows = f"SELECT {', '.join(expressions)} FROM {table.sql()}"
        with self._workspace.fence.shared():
            self._workspace.warehouse.execute(f"INSERT INTO {target} ({columns}) SETTINGS {settings} {rows}")

    @contextmanager
    def _slot(self, stage: Stage) -> Iterator[Name]:
        """A stage table of one's own, empty; at most as many per datasource as there are writers."""
        free, fresh = self._claim(stage)
        if fresh is not None:
            try:
                self._workspace.warehouse.execute(_stage_ddl(stage, fresh))
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


def _stage_of(snapshot: Snapshot, name: str) -> Stage:
    known = snapshot.memo.get(("stage", name))
    if known is None:
        relation = snapshot.build.relations.get(name)
        if relation is None:
            raise RookeryError(UNKNOWN_DATASOURCE, f"there is no datasource `{name}`", hint="rookery datasource ls")
        fed = next((p.name for p in snapshot.build.materialized() if p.target and p.target.name == name), None)
        if fed is not None:
            raise RookeryError(NOT_WRITABLE, f"`{name}` is filled by pipe `{fed}` and takes no rows from outside")
        known = snapshot.memo[("stage", name)] = stage_of(snapshot.build.datasources[name])
    return known  # type: ignore[return-value]


def stage_of(source: Datasource) -> Stage:
    """How a datasource's rows are staged."""
    columns = tuple(_staged(source, c) for c in source.columns)
    tenant = next((s for s, c in zip(columns, source.columns, strict=True) if c.name == source.tenant_column), None)
    return Stage(source, columns, tenant, fingerprint([(c.name, c.type, c.default) for c in columns])[:12])


def _staged(source: Datasource, column: Column) -> Staged:
    path = column.json_path.removeprefix("$.").split(".") if column.json_path else [column.name]
    name = path[0]
    if len(path) > 1:
        inner = ".".join(quote(p) for p in (name, *path[1:]))
        kind = column.type if column.type.startswith("Nullable(") else f"Nullable({column.type})"
        value = f"CAST({inner} AS {kind})"
        fallback = column.default or f"defaultValueOfTypeName({literal(column.type)})"
        return Staged(name, "JSON", "", value if kind == column.type else f"ifNull({value}, {fallback})")
    if column.name == source.tenant_column:
        return Staged(name, "Nullable(String)", "", f"CAST(assumeNotNull({quote(name)}) AS {column.type})")
    wide = WIDE.get(column.type)
    if wide is None:
        return Staged(name, column.type, column.default, quote(name))
    low, high = _bounds(column.type)
    check = f"{quote(name)} BETWEEN {low} AND {high}"
    return Staged(name, wide, column.default, f"CAST({quote(name)} AS {column.type})", check)


def _bounds(kind: str) -> tuple[int, int]:
    bits = int(re.sub(r"\D", "", kind))
    return (0, 2**bits - 1) if kind.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _stage_ddl(stage: Stage, table: Name) -> str:
    parts = {
        c.name: f"{quote(c.name)} {c.type}" + (f" DEFAULT {c.default}" if c.default else "") for c in stage.columns
    }
    return f"CREATE TABLE IF NOT EXISTS {table.sql()} ({', '.join(parts.values())}) ENGINE = Memory"


def _tenant_check(stage: Stage, bound: str | None) -> list[tuple[str, str]]:
    """The condition under which a staged tenant is canonical, in the engine's words."""
    if stage.tenant is None:
        return []
    value = quote(stage.tenant.name)
    if bound is not None:
        return [(stage.tenant.name, f"ifNull({value} = {literal(bound)}, 1)")]
    kind = base_type(next(c.type for c in stage.source.columns if c.name == stage.source.tenant_column))
    if kind == "String":
        check = (
            f"length({value}) BETWEEN 1 AND 256 AND isValidUTF8({value}) AND "
            f"NOT match({value}, '[\\\\x00-\\\\x1f\\\\x7f]') AND normalizeUTF8NFC({value}) = {value}"
        )
    else:
        check = f"toString(to{kind}OrNull({value})) = {value}"
    return [(stage.tenant.name, f"ifNull({check}, 0)")]


_ROW = re.compile(r"\(at row (\d+)\)")


def _bad_row(exc: RookeryError, body: bytes, format: Input) -> RookeryError:
    """The engine's complaint about a row, with its line; values in it are the caller's own."""
    text = exc.detail or exc.message
    found = _ROW.search(text)
    where = _line(body, format, int(found.group(1))) if found else "the batch"
    reason = exc.message.split(": (at row")[0].split(": While executing")[0].strip()
    return RookeryError(BAD_ROW, f"{where}: {reason[:300]}", hint="nothing was stored", detail=text)


def _line(body: bytes, format: Input, row: int) -> str:
    """Where the row with a number (from 1) stands in the body."""
    if format is Input.PARQUET:
        return f"row {row}"
    seen = 0 if format is Input.NDJSON else -1
    for number, line in enumerate(body.split(b"\n"), 1):
        if line.strip():
            seen += 1
            if seen == row:
                return f"line {number}"
    return f"row {row}"


def describe_rows(rows: int) -> dict[str, Any]:
    """The Events API's answer."""
    return {"successful_rows": rows, "quarantined_rows": 0}
