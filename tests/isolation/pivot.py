"""Two workspaces for one tenant: one that others share, and one that holds only the tenant's rows.

Whatever a tenant asks, both must give the same answer: status, columns, rows, error code. Data and queries come from a
seed; queries are put together from the types of columns and from every function that author SQL may call.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from engine.control import push, tenants
from engine.errors import RookeryError
from engine.ingest.gateway import Gateway
from engine.ingest.staging_pool import StagingPool
from engine.query.executor import Queries
from engine.query.request import QueryRequest
from engine.schema import literal
from engine.settings import Settings
from engine.tokens.claims import Claims, Scope
from engine.warehouse.port import Input, Warehouse
from engine.workspace.opening import open_warehouse
from engine.workspace.snapshot import DeployedFile
from engine.workspace.workspace import Workspace

COLUMNS = {
    "id": "UInt64", "word": "LowCardinality(String)", "maybe": "LowCardinality(Nullable(String))",
    "code": "LowCardinality(FixedString(3))", "tags": "Array(LowCardinality(String))",
    "props": "Map(LowCardinality(String), String)", "pair": "Tuple(a LowCardinality(String), b Int64)",
    "deep": "Array(Tuple(k LowCardinality(String), v Array(LowCardinality(Nullable(String)))))",
    "s": "String", "n": "Nullable(Int64)", "sparse": "String", "list": "Array(String)", "u": "UInt32", "f": "Float64",
    "day": "Date", "at": "DateTime64(3)", "d": "Decimal(18, 4)", "e": "Enum8('x' = 1, 'y' = 2)", "j": "JSON",
    "typed": "JSON(k LowCardinality(String))", "dyn": "Dynamic", "var": "Variant(Int64, String, Array(Int64))",
    "objects": "Array(JSON)", "when": "LowCardinality(String)",
}  # fmt: skip
KEYS = ("tenant_id", "word", "at")
TEXTS = {
    "events": ("word", "maybe", "code", "tags[1]", "mapKeys(props)[1]", "props['k']", "pair.a", "s", "sparse", "list[1]",
               "deep[1].k", "deep[1].v[1]", "typed.k", "tenant_id", "arrayElement(tags, 2)", "(word, 1).1"),
    "made": ("s", "tenant_id"),
    "sums": ("k", "s", "tenant_id", "arrayJoin(finalizeAggregation(w))"),
}  # fmt: skip
TEXTS |= {"bare": TEXTS["events"], "bare_made": TEXTS["made"]}
DYNAMIC = ("j.x", "j.y.z", "typed.m", "dyn", "objects[1].q", "j.list[1].w")
"""Columns for which neighbors send values of other types."""
OWN = ("7", "12", "open", "ab", "2026-01-02", "1.2.3.4", "true", "1", "x7")
"""Texts of the tenant: small letters and digits first, unlike those of neighbors."""
FOREIGN = ("!", "!!", "[", "!" * 40, "%zz", "\\", "{", "(", "*", "-", "É")
USUAL = "^([a-z0-9].*)?$"
TYPES = ("Int64", "UInt8", "Float64", "String", "Nullable(Int64)", "Decimal(9, 2)", "DateTime")
LANDING = """
columns:
{columns}
engine: {{type: MergeTree, sorting_key: [{key}]}}
indexes:
  - {{name: i_s, expression: s, type: bloom_filter, granularity: 1}}
  - {{name: i_n, expression: u, type: minmax, granularity: 1}}
tenant: {{column: tenant_id, landing: true{more}}}
"""
ROLLUP = """
nodes:
  - name: grouped
    sql: >
      SELECT tenant_id, word AS k, maybe AS s, count() AS n, sumState(toInt64(u)) AS u, groupArrayState(word) AS w,
      max(id) AS id FROM {source} GROUP BY tenant_id, k, s
materialize:
  target: {target}
  per_tenant: true
  engine: {{type: MergeTree, sorting_key: [tenant_id, k]}}
"""

MADE = """
nodes:
  - name: decoded
    sql: >
      SELECT tenant_id, id, base64Decode(replaceRegexpOne(word, '^[a-z0-9].*$', 'YQ==')) AS s,
      CAST(j.x, 'Nullable(Int64)') AS n, j FROM {source}
materialize:
  target: {target}
  per_tenant: true
  engine: {{type: MergeTree, sorting_key: [tenant_id, id]}}
"""
"""A view that fails on rows of the neighbors."""
FILTERS = ({}, {}, {}, {"events": "toDate(when) >= '2020-01-01'", "bare": "toDate(when) >= '2020-01-01' AND id < 20"})
"""Filters of the token, which fail on rows of the neighbors."""


@dataclass
class Side:
    """One workspace and its front door, without HTTP."""

    workspace: Workspace
    gateway: Gateway
    queries: Queries

    def ask(self, sql: str, tenant: str, filters: Mapping[str, str] = {}) -> tuple[Any, ...]:
        """An answer as it can be compared: status, columns and sorted rows; or status and error code."""
        names = ("events", "bare", "sums", "made", "bare_made")
        scopes = tuple(Scope("DATASOURCES:READ", n, filter=filters.get(n)) for n in names)
        claims = Claims("pivot", scopes=scopes, tenant=tenant)
        try:
            answer = self.queries.sql(QueryRequest(claims), sql)
            with_rest = b"".join(iter_answer(answer))
        except RookeryError as exc:
            return (exc.code.status, exc.code.id, exc.message)
        body = json.loads(with_rest)
        rows = sorted(json.dumps(row, sort_keys=True) for row in body["data"])
        return (200, [(c["name"], c["type"]) for c in body["meta"]], rows)


def iter_answer(answer: Any) -> Iterator[bytes]:
    try:
        yield answer.head
        while not answer.complete and (chunk := answer.next_chunk()) is not None:
            yield chunk
    finally:
        answer.close()


@dataclass
class Pivot:
    """Both sides. `own` and `others` are the rows by tenant that the shared side holds."""

    shared: Side
    solo: Mapping[str, Side]
    compared: int = 0
    found: list[tuple[str, str, Any, Any]] = field(default_factory=list)

    def close(self) -> None:
        for side in (self.shared, *self.solo.values()):
            side.gateway.close()

    def holds(self, sql: str, tenant: str, filters: Mapping[str, str] = {}) -> bool:
        """Whether both sides give the same answer. An invalid query runs on one side only."""
        alone = self.solo[tenant].ask(sql, tenant, filters)
        self.compared += 1
        shared = self.shared.ask(sql, tenant, filters)
        if shared != alone:
            self.found.append((tenant, sql, alone, shared))
        return shared == alone


def open_side(
    warehouse: Warehouse, name: str, rows: Sequence[Mapping[str, Any]], placements: Mapping[str, str]
) -> Side:
    """A workspace with these rows, which arrive in two batches."""
    workspace = Workspace(Settings(workspace=name), warehouse)
    gateway = Gateway(workspace, StagingPool(workspace))
    side = Side(workspace, gateway, Queries(workspace))
    columns = "\n".join(
        f'  - {{name: {n}, type: "{t}"}}' for n, t in {"tenant_id": "LowCardinality(String)", **COLUMNS}.items()
    )
    key = ", ".join(KEYS)
    files = {
        "datasources/events.yaml": LANDING.format(columns=columns, key=key, more=""),
        "datasources/bare.yaml": LANDING.format(columns=columns, key=key, more=", nest_copy: false"),
        "pipes/roll.yaml": ROLLUP.format(source="events", target="sums"),
        "pipes/make.yaml": MADE.format(source="events", target="made"),
        "pipes/make_bare.yaml": MADE.format(source="bare", target="bare_made"),
    }
    push.push(workspace, {Path(f).stem: DeployedFile(text, f) for f, text in files.items()})
    for tenant, placement in placements.items():
        tenants.add(workspace, [tenant], placement)
    for name in ("events", "bare"):
        for half in (0, 1):
            part = [r for r in rows if r["id"] % 2 == half]
            body = "\n".join(map(json.dumps, part)).encode()
            gateway.append(name, body, Input.NDJSON).result(120)
    return side


def rows_of(tenant: str, texts: Sequence[str], pick: random.Random, *, foreign: bool) -> list[dict[str, Any]]:
    """A tenant's rows: `foreign` ones have values and types that the others never sent."""
    rows = []
    for number in range(30):
        text, other = pick.choice(texts), pick.choice(texts)
        dynamic = pick.choice(([1], "no number", {"a": 1}, [["x"]])) if foreign else number
        rows.append({
            "tenant_id": tenant, "id": number, "word": text, "maybe": pick.choice((text, None)), "code": other[:3],
            "tags": [text, other], "props": {other or "k": text, "k": other}, "pair": {"a": text, "b": number},
            "deep": [{"k": text, "v": [other, None]}], "s": text, "n": pick.choice((number, None)),
            "sparse": text if number == 7 else "", "list": [other, text], "u": number, "f": number / 4,
            "day": f"2026-01-{number % 28 + 1:02d}", "at": f"2026-01-02 00:00:{number:02d}.000", "d": f"{number}.25",
            "e": "xy"[number % 2], "j": {"x": dynamic, "y": {"z": dynamic}, "list": [{"w": dynamic}]},
            "typed": {"k": text, "m": dynamic}, "dyn": dynamic, "var": number, "objects": [{"q": dynamic}],
            "when": "!" if foreign else "2026-01-02",
        })  # fmt: skip
    return rows


def engine_at(directory: Path) -> Warehouse:
    """The embedded engine for any number of workspaces; a process has one directory."""
    return open_warehouse(Settings(data=directory, readers=2, writers=4, workspace="shared", borrow_timeout=60))


def open_pivot(warehouse: Warehouse, seed: int, name: str = "") -> Pivot:
    """A shared workspace of a pooled tenant, one with tables and two neighbors; and one for each of the first two."""
    pick = random.Random(seed)
    placements = {"own": "pooled", "nested": "tables"}
    rows = {t: rows_of(t, OWN, pick, foreign=False) for t in placements}
    neighbors = [r for t in ("next", "zoo") for r in rows_of(t, FOREIGN, pick, foreign=True)]
    mixed = [*neighbors, *(r for own in rows.values() for r in own)]
    pick.shuffle(mixed)
    both = {**placements, "next": "pooled", "zoo": "tables"}
    shared = open_side(warehouse, f"shared{name}", mixed, both)
    return Pivot(shared, {t: open_side(warehouse, f"only{t}{name}", rows[t], {t: p}) for t, p in placements.items()})


class Grammar:
    """Queries from a seed, always the same ones."""

    def __init__(self, seed: int) -> None:
        self.pick = random.Random(seed)

    def query(self) -> str:
        """One of the forms in which an expression reaches rows."""
        source = self.pick.choice(("events", "events", "events", "bare", "bare", "sums", "made", "bare_made"))
        value = f"toString({self.expression(source)})"
        id = "id" if source != "sums" else "n"
        return self.pick.choice((
            f"SELECT count() AS c FROM {source} WHERE isNotNull({value})",
            f"SELECT {value} AS v, count() AS c FROM {source} GROUP BY v",
            f"SELECT {id}, {value} AS v FROM {source} ORDER BY v, {id} LIMIT 5",
            f"SELECT max(length({value})) AS v FROM (SELECT * FROM {source} ORDER BY {id})",
            f"SELECT uniqExact({value}) AS v FROM {source} WHERE {id} >= 3",
            f"SELECT max({value}) AS v FROM {source}",
            f"SELECT count() AS c FROM {source} AS a JOIN (SELECT {value} AS v FROM {source}) AS b ON toString(a.{id}) = b.v",
            f"WITH x AS (SELECT {value} AS v FROM {source}) SELECT min(v), max(v) FROM x",
        ))  # fmt: skip

    def expression(self, source: str) -> str:
        kind = self.pick.randrange(20)
        text = self.pick.choice(TEXTS[source])
        failing, plain = calls()
        if source in ("events", "bare") and kind < 5:
            return f"{self.pick.choice(DYNAMIC)}::{self.pick.choice(TYPES)}"
        if source in ("made", "bare_made") and kind < 9:
            return f"{self.pick.choice(('j.x', 'j.y.z', 'n'))}::{self.pick.choice(TYPES)}"
        if kind == 5:
            return f"length(repeat(replaceRegexpAll(toString({text}), '^!$', repeat('x', 900000)), 1000))"
        if kind == 6:
            return f"CAST({text}, '{self.pick.choice(TYPES)}')"
        if kind < 9:
            return _called(self.pick.choice(plain), text)
        call, usual = self.pick.choice(failing)
        return _called(call, f"replaceRegexpOne({text}, '{USUAL}', {literal(usual)})")


def _called(call: str, argument: str) -> str:
    return re.sub(r"\bx\b", lambda _: argument, call, count=1)


@cache
def calls() -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Calls that fail on texts of neighbors, each with a text on which it does not; and all other calls."""
    lines = (Path(__file__).parent / "expressions.tsv").read_text(encoding="utf-8").splitlines()
    fields = [line.split("\t") for line in lines if not line.startswith("#")]
    return tuple((f[0], f[1]) for f in fields if len(f) == 2), tuple(f[0] for f in fields if len(f) == 1)


def run(pivot: Pivot, grammar: Grammar, count: int, *, until: Callable[[Pivot], bool] = lambda _: False) -> None:
    """Compare `count` queries, or fewer if a condition holds before."""
    for number in range(count):
        filters = grammar.pick.choice(FILTERS)
        pivot.holds(grammar.query(), ("own", "nested")[number % 3 == 2], filters)
        if until(pivot):
            return
