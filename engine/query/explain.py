"""Explains a call of an endpoint: runs it like any call, and describes its statement, its plan and its cost.

Only admins may do this, because the statement and the plan show names, conditions and counts of other tenants' rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import orjson

from engine.compiler.build import Build
from engine.compiler.scope import FOREIGN_ROW
from engine.errors import RookeryError
from engine.project.datasource import Datasource
from engine.query.errors import error_for_caller
from engine.query.executor import Queries
from engine.query.request import QueryRequest
from engine.query.statistics import HELD_BACK_BYTES
from engine.query.trace import Trace
from engine.sql.tree import Node, flat_members, identifier_parts, walk_all, walk_select
from engine.warehouse.port import Format, Value
from engine.workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class IndexUse:
    """What an index selected. Each index starts from what the previous one left."""

    type: str
    """PrimaryKey, Partition, MinMax or Skip."""
    name: str
    """The name of a skip index; empty for others."""
    keys: tuple[str, ...]
    """The expressions of the key that the query has conditions on."""
    condition: str
    parts: int
    parts_total: int
    granules: int
    granules_total: int


@dataclass(frozen=True, slots=True)
class TableRead:
    """One read of a table in the engine's plan."""

    table: str
    datasource: str
    parts: int
    parts_total: int
    granules: int
    granules_total: int
    indexes: tuple[IndexUse, ...]

    @property
    def database(self) -> str:
        return self.table.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Advice:
    """A reason why a call reads more than it needs to."""

    datasource: str
    problem: str
    hint: str


@dataclass(frozen=True, slots=True)
class _Consumed:
    """What was read of a result."""

    size: int
    """Bytes of the JSON document."""
    closing: Mapping[str, Any]
    """The closing part of the document, with the statistics."""
    ignored: list[str]
    """Names of parameters that had no effect."""


def explain(queries: Queries, workspace: Workspace, pipe: str, request: QueryRequest) -> dict[str, Any]:
    """Run a call of an endpoint to its end, and describe it. Raises the errors of the call."""
    trace, timer = Trace(workspace.warehouse), request.timer
    # The wait for a reader is not part of any stage.
    timer.stage("wait")
    consumed = _consume(queries, replace(request, trace=trace, format=Format.JSON), pipe)
    timer.stage("read")
    statement, snapshot = trace.statement, trace.snapshot
    assert statement is not None and snapshot is not None
    with queries.running.watch(request.ticket):
        named = replace(statement, id=request.ticket.id)
        plan = workspace.warehouse.plan(named)
        memory = workspace.warehouse.peak_memory(named)
    reads = list(_table_reads(plan))
    statistics = consumed.closing["statistics"]
    return {
        "pipe": pipe,
        "tenant": trace.tenant,
        # A query that raises the message of the second check would look as if that check had failed.
        "sql": statement.sql.replace(FOREIGN_ROW, FOREIGN_ROW.partition(" (")[0]),
        "parameters": {name: _plain(value) for name, value in sorted(statement.bindings.items())},
        "runs": trace.runs,
        "tables": [asdict(read) for read in reads],
        "read_rows": statistics["rows_read"],
        "read_bytes": statistics["bytes_read"],
        "result_rows": consumed.closing["rows"],
        "result_bytes": consumed.size,
        "memory_bytes": memory,
        "ignored_parameters": consumed.ignored,
        "milliseconds": _stages(trace, dict(timer.stages), statistics["elapsed"] * 1000),
        "warnings": [asdict(a) for a in _advice(snapshot.build, trace, reads)],
    }


def _consume(queries: Queries, request: QueryRequest, pipe: str) -> _Consumed:
    """Run the call and read its result to the end, without keeping it."""
    result = queries.endpoint(request, pipe)
    size, tail = 0, b""
    try:
        chunk: bytes | None = result.head
        while chunk is not None:
            size += len(chunk)
            tail = (tail + chunk)[-HELD_BACK_BYTES:]
            chunk = result.next_chunk()
    except RookeryError as exc:
        raise error_for_caller(exc, reads_all=True) from exc
    finally:
        result.close()
    # No later key of the document is named `rows`.
    closing = orjson.loads(b"{" + tail[tail.rfind(b'"rows":') :])
    return _Consumed(size, closing, sorted(result.ignored))


def _stages(trace: Trace, measured: Mapping[str, float], engine: float) -> dict[str, float]:
    """The milliseconds of each stage. They add up to the time from the request's parameters to the last byte."""
    stages = {
        "template": trace.template,
        "verify": trace.verify,
        "compose": measured["compose"] - trace.template - trace.verify,
        "engine": engine,
        "serialization": measured["query"] + measured["read"] - engine,
    }
    return {name: round(max(ms, 0.0), 3) for name, ms in stages.items()}


def _plain(value: Value) -> Any:
    """A bound value as JSON."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _table_reads(plan: Any) -> Iterator[TableRead]:
    """The reads of tables in a plan, from the top."""
    pending = [plan]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending.extend(reversed(node))
            continue
        pending.extend(reversed(node.get("Plans", [])))
        if "Plan" in node:
            pending.append(node["Plan"])
        if str(node.get("Node Type", "")).startswith("ReadFromMergeTree"):
            yield _table_read(node)


def _table_read(node: Mapping[str, Any]) -> TableRead:
    table = str(node.get("Description", "")).replace("`", "")
    indexes = tuple(_index_use(index) for index in node.get("Indexes", []))
    first, last = (indexes[0], indexes[-1]) if indexes else (None, None)
    return TableRead(
        table,
        table.partition(".")[2],
        last.parts if last else 0,
        first.parts_total if first else 0,
        last.granules if last else 0,
        first.granules_total if first else 0,
        indexes,
    )


def _index_use(index: Mapping[str, Any]) -> IndexUse:
    return IndexUse(
        # Versions of the engine spell it in two ways.
        str(index.get("Type", "")).replace("Min-Max", "MinMax"),
        str(index.get("Name", "")),
        tuple(index.get("Keys", ())),
        str(index.get("Condition", "")),
        *(int(index.get(key, 0)) for key in ("Selected Parts", "Initial Parts")),
        *(int(index.get(key, 0)) for key in ("Selected Granules", "Initial Granules")),
    )


def _advice(build: Build, trace: Trace, reads: list[TableRead]) -> list[Advice]:
    """Advice on each datasource that the call reads."""
    filtered = _filtered_columns(build, trace)
    found: dict[Advice, None] = {}
    for read in reads:
        source = build.datasources.get(read.datasource)
        if source is None:
            continue
        found.update(dict.fromkeys(_tenant_advice(build, trace, read, source)))
        found.update(dict.fromkeys(_filter_advice(read, source, filtered.get(read.datasource, frozenset()))))
    return list(found)


def _tenant_advice(build: Build, trace: Trace, read: TableRead, source: Datasource) -> Iterator[Advice]:
    """Advice if the key of a shared table does not reduce what is read for one tenant."""
    tenant = build.relations[source.name].tenant
    if tenant is None or trace.tenant is None or read.database != build.workspace:
        return
    if read.granules == read.granules_total > 1:
        yield Advice(
            source.name,
            f"the primary key does not separate the tenant's rows: all {read.granules_total:,} granules of "
            f"`{source.name}` are read",
            "this is right if nearly all rows are this tenant's; otherwise choose smaller granules "
            "(engine: settings: index_granularity), or the placement `tables` for this tenant",
        )


def _filter_advice(read: TableRead, source: Datasource, filtered: frozenset[str]) -> Iterator[Advice]:
    """Advice on the columns of conditions that no index of the table covers."""
    used = _words(key for index in read.indexes for key in index.keys)
    key = [source.engine.primary_key] if source.engine.primary_key else list(source.sorting_key)
    covered = used | _words([source.engine.partition_key, *(i.expression for i in source.indexes)])
    for column in sorted(filtered - covered - {source.tenant_column}):
        if column in _words(key):
            yield Advice(
                source.name,
                f"a condition on `{column}` does not use the primary key of `{source.name}`",
                "compare the column itself with a value, without a function around the column",
            )
        else:
            yield Advice(
                source.name,
                f"a condition filters `{column}`, which is not in the primary key of `{source.name}`",
                f"add `{column}` to the end of sorting_key, or an index on it under indexes",
            )


def _words(texts: Any) -> frozenset[str]:
    """The identifiers in SQL expressions, and some other words."""
    spaced = " ".join("".join(c if c.isalnum() or c == "_" else " " for c in text or "") for text in texts)
    return frozenset(spaced.split())


def _filtered_columns(build: Build, trace: Trace) -> dict[str, frozenset[str]]:
    """The columns of datasources in WHERE and PREWHERE of the author's SQL, by datasource."""
    found: dict[str, frozenset[str]] = {}
    # A statement over many tenants' tables can be too long for the parser.
    with suppress(RookeryError):
        tree, _ = trace.parser.parse(trace.statement.sql if trace.statement else "")
        for select in walk_all(tree):
            if select.get("type") == "SelectQuery":
                for name in _sources(select) & set(build.relations):
                    columns = _condition_columns(select) & frozenset(build.relations[name].columns)
                    found[name] = found.get(name, frozenset()) | columns
    return found


def _sources(select: Node) -> set[str]:
    """The names in FROM. The author's SQL names datasources without a database."""
    expressions = [element.get("table_expression") or {} for element in flat_members(select.get("tables"))]
    tables = [e["database_and_table_name"] for e in expressions if "database_and_table_name" in e]
    return {parts[0] for parts in map(identifier_parts, tables) if len(parts) == 1}


def _condition_columns(select: Node) -> frozenset[str]:
    """The names in the conditions of a SELECT, and the parts of qualified names."""
    nodes = walk_select([select.get("where"), select.get("prewhere")])
    return frozenset(part for n in nodes if n.get("type") == "Identifier" for part in identifier_parts(n))
