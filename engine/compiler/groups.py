"""Shared aggregates over many tenants' rows, with a minimum number of tenants in each visible group.

Such a target stores with each group how many rows of which tenants are in it. Readers do not see groups with fewer
tenants than the file's `min_tenants`. The engine merges these counts like any other aggregate state, so the view has
to compute them over exactly the rows of the group. This module proves that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NoReturn

from engine.compiler.build_state import BuildState
from engine.compiler.pipes import CompiledPipe
from engine.compiler.scope import GROUP_TENANTS
from engine.errors import SHARED_GROUPS, Place, RookeryError
from engine.project.datasource import Datasource
from engine.project.expressions import plain_name
from engine.schema import quote
from engine.sql import shape
from engine.sql.functions import is_aggregate
from engine.sql.row_origin import Origin
from engine.sql.tenant_lineage import ROW_ORDER_FUNCTIONS, Lineage, names_of_values
from engine.sql.tree import Node, flat_members, identifier_parts, walk_all, walk_select

_SUMMED = re.compile(
    r"(count|sum|sumwithoverflow|sumkahan|avg|avgweighted|(var|stddev|covar)(pop|samp)(stable)?)"
    r"(if|ornull|ordefault|state|simplestate)*",
    re.IGNORECASE,
)
"""Aggregates from which a single row's value cannot be read."""
_AGGREGATE_TYPE = re.compile(r"\s*(?:Simple)?AggregateFunction\s*\(\s*(\w+)")
"""The function of a column with an aggregate type."""
_UNSTABLE = re.compile(r"\b(LowCardinality|Nullable|Float32|Float64|BFloat16|JSON|Dynamic|Variant)\b")
"""Types for which equal keys are not always merged into one group."""
_CLAUSES_BEYOND_GROUPS = (
    "distinct",
    "limit_by",
    "limit_length",
    "limit_offset",
    "order_by",
    "qualify",
    "interpolate",
)
"""Clauses that remove groups or depend on other groups."""
_SUBTOTALS = ("rollup", "cube", "grouping_sets", "totals")


def key_of(source: Datasource) -> tuple[str, ...]:
    """The columns of the sorting key, which identify a group."""
    return tuple(name for expression in source.sorting_key if (name := plain_name(expression)) is not None)


def _check_target(source: Datasource) -> None:
    """Refuse a target that cannot keep groups with their tenants. Raises RK2015."""
    place = source.shared.place_of("min_tenants")
    if source.engine.type != "AggregatingMergeTree":
        _refuse(source.name, f"its engine is {source.engine.type}", "use AggregatingMergeTree", place)
    keys = key_of(source)
    if not keys or len(keys) < len(source.sorting_key):
        _refuse(source.name, "its sorting key is not a list of columns", "sort by the columns of GROUP BY", place)
    if source.engine.ttl and "group by" in source.engine.ttl.lower():
        _refuse(source.name, "its TTL merges groups", "remove GROUP BY from the TTL", place)
    for column in source.columns:
        is_key = column.name in keys
        if is_key and _UNSTABLE.search(column.type):
            hint = "use a plain type, such as String, Date or an integer"
            _refuse(source.name, f"key column `{column.name}` has the type {column.type}", hint, place)
        stored = _AGGREGATE_TYPE.match(column.type)
        if not is_key and (stored is None or not _SUMMED.fullmatch(stored[1])):
            hint = (
                f"use a type such as SimpleAggregateFunction(sum, UInt64), or add `{column.name}` to the sorting key"
            )
            _refuse(source.name, f"column `{column.name}` is neither a key nor a sum", hint, place)


@dataclass(frozen=True, slots=True)
class ViewFacts:
    """What is known about the SQL of a pipe's view."""

    origins: Mapping[str, Origin]
    """The origins of the names that the published node reads."""
    names: frozenset[str]
    """The names of values in all parts of the view."""
    trees: Sequence[Node]
    """The syntax trees of all parts of the view."""


def with_tenants(state: BuildState, pipe: CompiledPipe, source: Datasource, view: ViewFacts) -> str:
    """The SQL of the pipe's view, with a column of the tenants in each group. Raises RK2015 if the proof fails."""
    _check_target(source)
    return _Groups(state, pipe, source, view).text()


def _refuse(target: str, what: str, hint: str, place: Place) -> NoReturn:
    message = f"`{target}` cannot be shared with a minimum number of tenants: {what}"
    raise RookeryError(SHARED_GROUPS, message, hint=hint, place=place)


class _Groups:
    """Proves that one view keeps groups with their tenants, and adds the column of tenants to it."""

    def __init__(self, state: BuildState, pipe: CompiledPipe, source: Datasource, view: ViewFacts) -> None:
        self._pipe, self._source, self._view = pipe, source, view
        self._parser = state.composer.verifier.parser
        # Parsed trees are cached and shared. This copy gets one more column.
        self._tree = deepcopy(self._parser.parse(pipe.published_text().canonical)[0])
        self._names = view.names | names_of_values(self._tree)

    def text(self) -> str:
        """The canonical SQL of the view's last node with an additional column: the number of rows by tenant."""
        select = self._select()
        tenant = self._tenant_column(select)
        self._refuse_clauses(select)
        self._check_outputs(select, tenant)
        # Earlier nodes count too: they could rename the tenant or compute a value from it.
        for tree in self._view.trees:
            self._refuse_derived_tenants(tree, tenant.rpartition(".")[2].strip("`"))
        rows = f"sumMapState([toString({tenant})], [toUInt64(1)])"
        counts = self._parser.parse(f"SELECT {rows} AS {quote(GROUP_TENANTS)}")[0]
        select["select"]["children"].extend(shape.top(counts)["select"]["children"])
        return str(self._parser.format(self._tree))

    def _refuse(self, what: str, hint: str) -> NoReturn:
        message = (
            f"pipe `{self._pipe.name}` cannot fill `{self._source.name}`, "
            "which is shared with a minimum number of tenants"
        )
        raise RookeryError(SHARED_GROUPS, f"{message}: {what}", hint=hint, place=self._pipe.place)

    def _select(self) -> dict[str, Any]:
        if shape.is_union(self._tree):
            self._refuse("it is a UNION", "write one pipe for each SELECT; several may fill one target")
        select = shape.top(self._tree)
        if not flat_members(select.get("group_by")):
            self._refuse("it has no GROUP BY", f"group by {', '.join(key_of(self._source))}")
        return select

    def _tenant_column(self, select: Node) -> str:
        """The SQL of the tenant column in the rows that the SELECT aggregates."""
        read = {n.get("name") for n in walk_all(self._tree) if n.get("type") in ("TableIdentifier", "Identifier")}
        origins = {o for n, o in self._view.origins.items() if n in read and o.kind != "public"}
        if len(origins) != 1 or next(iter(origins)).kind != "carried":
            self._refuse(
                "it does not read rows of many tenants together with their tenant column",
                "read the landing datasource",
            )
        column = next(iter(origins)).column
        if any(n.get("alias") == column for n in walk_select(select)):
            self._refuse(f"another value has the name `{column}`", "give it another name")
        # The rows that the SELECT aggregates, as a SELECT of their tenants. The proof for per-tenant pipes then shows
        # that these are the tenants of the rows.
        rows = {
            k: v for k, v in select.items() if k in ("type", "with", "tables", "where", "prewhere", "recursive_with")
        }
        tenant_column = {"type": "Identifier", "name": column}
        rows["select"] = {"type": "ExpressionList", "children": [tenant_column]}
        bearing = frozenset(n for n, o in self._view.origins.items() if o in origins)
        try:
            Lineage(column, self._names).union(rows, bearing)
        except RookeryError as exc:
            raise RookeryError(SHARED_GROUPS, exc.message, hint=exc.hint, place=self._pipe.place) from exc
        tables = [t for e in flat_members(select["tables"]) if (t := e.get("table_expression")) is not None]
        first = tables[0].get("database_and_table_name") or tables[0].get("subquery") or {}
        name = first.get("alias") or (first.get("name") if "database_and_table_name" in tables[0] else "")
        return f"{quote(name)}.{quote(column)}" if name and name not in self._names else quote(column)

    def _refuse_clauses(self, select: Node) -> None:
        """Refuse clauses that remove, add or combine groups."""
        for clause in _CLAUSES_BEYOND_GROUPS:
            if select.get(clause):
                self._refuse(clause.replace("_", " ").upper(), "remove it, and read the target with it")
        for flag in _SUBTOTALS:
            if select.get(f"group_by_with_{flag}"):
                self._refuse(f"GROUP BY WITH {flag.upper()}", "its subtotal rows would look like groups")

    def _check_outputs(self, select: Node, tenant: str) -> None:
        """Refuse outputs that could show a single row or a tenant, or that do not match the target's key."""
        column = tenant.rpartition(".")[2].strip("`")
        keys = key_of(self._source)
        for node in walk_select(select):
            name = str(node.get("name", "")) if node.get("type") == "Function" else ""
            if node.get("is_window_function") or name.lower() in ROW_ORDER_FUNCTIONS:
                self._refuse(f"`{name}` works across groups", "use plain aggregates")
            if name and is_aggregate(name) and not _SUMMED.fullmatch(name):
                self._refuse(
                    f"`{name}` returns values of single rows",
                    "share counts, sums, averages and variances, or `shared: true`",
                )
        outputs: dict[str, bool] = {}
        for item in flat_members(select["select"]):
            inside = list(walk_select(item))
            if any(n.get("type") == "Identifier" and identifier_parts(n)[-1] == column for n in inside):
                self._refuse(f"its output uses `{column}`", "a group has many tenants; remove the column")
            label = item.get("alias") or (identifier_parts(item)[-1] if item.get("type") == "Identifier" else None)
            if label is None:
                self._refuse("an output has no name", "name each output with AS, and do not use `*`")
            # Whether the output aggregates. An output that does not must be part of the key, or the engine would keep
            # the value of any one row.
            outputs[str(label)] = any(
                n.get("type") == "Function" and is_aggregate(str(n.get("name"))) for n in inside
            )
        for name, aggregated in outputs.items():
            if aggregated == (name in keys):
                problem = "is a key, but also an aggregate" if aggregated else "is neither a key nor an aggregate"
                self._refuse(f"output `{name}` {problem}", "the sorting key must be the columns of GROUP BY")
        if not set(keys) <= outputs.keys():
            self._refuse(
                f"it does not output the key {', '.join(keys)}", "output every column of the target's sorting key"
            )

    def _refuse_derived_tenants(self, tree: Node, column: str) -> None:
        """Refuse values that are computed from the tenant, such as an alias in a subquery. Outputs could use them."""
        for node in walk_all(tree):
            is_value = node.get("type") in ("Function", "Identifier", "Literal")
            derived = [node] if is_value and node.get("alias", column) != column else []
            derived += [item for item in flat_members(node.get("select")) if not _is_plain(item, column)]
            derived += [node["having"]] if node.get("having") else []
            if any(_may_use(item, column) for item in derived):
                problem = f"a value is computed from `{column}`, and an output could use it"
                self._refuse(problem, f"use `{column}` unchanged, or only in WHERE and JOIN")


def _is_plain(item: Node, column: str) -> bool:
    """Whether an output is a column with its own name, or `*`, so that no other value contains the tenant."""
    if item.get("type") == "Identifier":
        return bool(item.get("alias", column) == column or identifier_parts(item)[-1] != column)
    return str(item.get("type")).endswith("Asterisk") and "transformers" not in item


def _may_use(item: Node, column: str) -> bool:
    """Whether a value may be computed from a column, by its name or by `*` or COLUMNS."""
    for node in walk_select(item):
        kind = str(node.get("type"))
        if kind == "Identifier" and column in identifier_parts(node):
            return True
        if kind.endswith("Matcher") or (kind.endswith("Asterisk") and node is item and "transformers" in node):
            return True
        if kind == "Function" and str(node.get("name")).lower() != "count":
            arguments = flat_members(node.get("arguments"))
            if any(str(a.get("type")).endswith("Asterisk") for a in arguments):
                return True
    return False
