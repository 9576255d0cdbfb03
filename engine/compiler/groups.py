"""Aggregates over many tenants' rows that tenants share, with a minimum of tenants in each group.

Such a target keeps, beside each group's values, how many rows of which tenants are in it, exactly. Readers do not see
groups with fewer tenants than the file says. The engine merges these counts like every other state, so the view has
to compute them over exactly the rows of the group: that is what is proved here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, NoReturn

from engine.compiler.build_state import BuildState
from engine.compiler.pipes import CompiledPipe
from engine.compiler.scope import GROUP_TENANTS
from engine.errors import SHARED_GROUPS, Place, RookeryError
from engine.project.expressions import plain_name
from engine.project.model import Datasource
from engine.schema import quote
from engine.sql import shape
from engine.sql.functions import is_aggregate
from engine.sql.row_origin import Origin
from engine.sql.tenant_lineage import ACROSS_ROWS, Lineage, items, named, parts_of, walked

Node = Mapping[str, Any]

_SUMMED = re.compile(
    r"(count|sum|sumwithoverflow|sumkahan|avg|avgweighted|(var|stddev|covar)(pop|samp)(stable)?)"
    r"(if|ornull|ordefault|state|simplestate)*",
    re.IGNORECASE,
)
_VALUE = re.compile(r"\s*(?:Simple)?AggregateFunction\s*\(\s*(\w+)")
_UNSTABLE = re.compile(r"\b(LowCardinality|Nullable|Float32|Float64|BFloat16|JSON|Dynamic|Variant)\b")
_WHOLE = ("distinct", "limit_by", "limit_length", "limit_offset", "order_by", "qualify", "interpolate")
_SUPER = ("rollup", "cube", "grouping_sets", "totals")


def key_of(source: Datasource) -> tuple[str, ...]:
    """The columns that make up a group."""
    return tuple(name for expression in source.sorting_key if (name := plain_name(expression)) is not None)


def _check_target(source: Datasource) -> None:
    """Whether a target can keep groups with their tenants. Raises RK2015."""
    place = source.shared.place_of("min_tenants")
    if source.engine.type != "AggregatingMergeTree":
        _refuse(source.name, f"its engine is {source.engine.type}", "use AggregatingMergeTree", place)
    keys = key_of(source)
    if not keys or len(keys) < len(source.sorting_key):
        _refuse(source.name, "its sorting key is not a list of columns", "sort by the columns of GROUP BY", place)
    if source.engine.ttl and "group by" in source.engine.ttl.lower():
        _refuse(source.name, "its TTL puts groups together", "remove GROUP BY from the TTL", place)
    for column in source.columns:
        is_key = column.name in keys
        if is_key and _UNSTABLE.search(column.type):
            hint = "use a plain type, such as String, Date or an integer"
            _refuse(source.name, f"key column `{column.name}` has the type {column.type}", hint, place)
        kept = _VALUE.match(column.type)
        if not is_key and (kept is None or not _SUMMED.fullmatch(kept[1])):
            hint = (
                f"use a type such as SimpleAggregateFunction(sum, UInt64), or add `{column.name}` to the sorting key"
            )
            _refuse(source.name, f"column `{column.name}` is neither a key nor a sum", hint, place)


def with_tenants(
    state: BuildState,
    pipe: CompiledPipe,
    source: Datasource,
    known: Mapping[str, Origin],
    names: frozenset[str],
    trees: Sequence[Node],
) -> str:
    """The pipe's view with the set of tenants in each group. Raises RK2015 where that is not evident.

    `known` are the origins of what the published node reads, `names` are of values in all that the view consists of,
    whose texts are `trees`.
    """
    _check_target(source)
    return _Groups(state, pipe, source, known, names).text(trees)


def _refuse(target: str, what: str, hint: str, place: Place) -> NoReturn:
    message = f"`{target}` cannot be shared with a minimum of tenants: {what}"
    raise RookeryError(SHARED_GROUPS, message, hint=hint, place=place)


class _Groups:
    def __init__(
        self,
        state: BuildState,
        pipe: CompiledPipe,
        source: Datasource,
        known: Mapping[str, Origin],
        names: frozenset[str],
    ) -> None:
        self._state, self._pipe, self._source, self._known = state, pipe, source, known
        self._parser = state.composer.verifier.parser
        self._tree = deepcopy(self._parser.parse(pipe.published_text().canonical)[0])
        self._names = names | named(self._tree)

    def text(self, trees: Sequence[Node]) -> str:
        """The canonical text of the view's last node, with one more column: rows by tenant."""
        one = self._select()
        tenant = self._tenant(one)
        self._whole(one)
        self._values(one, tenant)
        for tree in trees:
            self._tenant_by_other_names(tree, tenant.rpartition(".")[2].strip("`"))
        rows = f"sumMapState([toString({tenant})], [toUInt64(1)])"
        counted = self._parser.parse(f"SELECT {rows} AS {quote(GROUP_TENANTS)}")[0]
        one["select"]["children"].extend(shape.top(counted)["select"]["children"])
        return str(self._parser.format(self._tree))

    def _refuse(self, what: str, hint: str) -> NoReturn:
        message = (
            f"pipe `{self._pipe.name}` cannot fill `{self._source.name}`, which is shared with a minimum of tenants"
        )
        raise RookeryError(SHARED_GROUPS, f"{message}: {what}", hint=hint, place=self._pipe.place)

    def _select(self) -> dict[str, Any]:
        if shape.is_union(self._tree):
            self._refuse("it is a UNION", "write one pipe for each SELECT; several may fill one target")
        one = shape.top(self._tree)
        if not items(one.get("group_by")):
            self._refuse("it has no GROUP BY", f"group by {', '.join(key_of(self._source))}")
        return one

    def _tenant(self, one: Node) -> str:
        """How the SELECT names the tenant of each row that it aggregates, when that is evident."""
        read = {n.get("name") for n in _tables(self._tree)}
        origins = {o for n, o in self._known.items() if n in read and o.kind != "public"}
        if len(origins) != 1 or next(iter(origins)).kind != "carried":
            self._refuse(
                "it does not read the rows of many tenants, each with its tenant", "read the landing datasource"
            )
        column = next(iter(origins)).column
        if any(n.get("alias") == column for n in walked(one)):
            self._refuse(f"another value has the name `{column}`", "give it another name")
        rows = {
            k: v for k, v in one.items() if k in ("type", "with", "tables", "where", "prewhere", "recursive_with")
        }
        plain = {"type": "Identifier", "name": column}
        rows["select"] = {"type": "ExpressionList", "children": [plain]}
        bearing = frozenset(n for n, o in self._known.items() if o in origins)
        try:
            Lineage(column, self._names).union(rows, bearing)
        except RookeryError as exc:
            raise RookeryError(SHARED_GROUPS, exc.message, hint=exc.hint, place=self._pipe.place) from exc
        tables = [t for e in items(one["tables"]) if (t := e.get("table_expression")) is not None]
        first = tables[0].get("database_and_table_name") or tables[0].get("subquery") or {}
        name = first.get("alias") or (first.get("name") if "database_and_table_name" in tables[0] else "")
        return f"{quote(name)}.{quote(column)}" if name and name not in self._names else quote(column)

    def _whole(self, one: Node) -> None:
        """Nothing may leave out, add or span groups."""
        for clause in _WHOLE:
            if one.get(clause):
                self._refuse(clause.replace("_", " ").upper(), "remove it, and read the target with it")
        for flag in _SUPER:
            if one.get(f"group_by_with_{flag}"):
                self._refuse(f"GROUP BY WITH {flag.upper()}", "its super-rows would look like groups")

    def _values(self, one: Node, tenant: str) -> None:
        column = tenant.rpartition(".")[2].strip("`")
        keys = key_of(self._source)
        for node in walked(one):
            name = str(node.get("name", "")) if node.get("type") == "Function" else ""
            if node.get("is_window_function") or name.lower() in ACROSS_ROWS:
                self._refuse(f"`{name}` works across groups", "use plain aggregates")
            if name and is_aggregate(name) and not _SUMMED.fullmatch(name):
                self._refuse(
                    f"`{name}` keeps single rows' values",
                    "share counts, sums, averages and variances, or `shared: true`",
                )
        outputs: dict[str, bool] = {}
        for item in items(one["select"]):
            inside = list(walked(item))
            if any(n.get("type") == "Identifier" and parts_of(n)[-1] == column for n in inside):
                self._refuse(f"its output is made of `{column}`", "a group is of many tenants; leave the column out")
            label = item.get("alias") or (parts_of(item)[-1] if item.get("type") == "Identifier" else None)
            if label is None:
                self._refuse("an output has no evident name", "name each output with AS, instead of `*`")
            outputs[str(label)] = any(
                n.get("type") == "Function" and is_aggregate(str(n.get("name"))) for n in inside
            )
        for name, aggregated in outputs.items():
            if aggregated == (name in keys):
                what = "is a key, and made by an aggregate" if aggregated else "is no key, and no aggregate"
                self._refuse(f"output `{name}` {what}", "the sorting key is what the pipe groups by")
        if not set(keys) <= outputs.keys():
            self._refuse(f"it does not output the key {', '.join(keys)}", "output all that the target sorts by")

    def _tenant_by_other_names(self, tree: Node, column: str) -> None:
        """An output could be made of a value that is made of the tenant, such as an alias of it in a subquery."""
        for node in walked(tree, into=_BELOW):
            valued = node.get("type") in ("Function", "Identifier", "Literal")
            made = [node] if valued and node.get("alias", column) != column else []
            made += [i for i in items(node.get("select")) if not _is_plain(i, column)]
            made += [node["having"]] if node.get("having") else []
            if any(_holds(item, column) for item in made):
                what = f"a value is made of `{column}`, and an output could be made of that"
                self._refuse(what, f"use `{column}` as it is, or in WHERE and JOIN only")


_BELOW = frozenset({"Subquery", "WithElement"})


def _is_plain(item: Node, column: str) -> bool:
    """Whether an output is a column, or all columns, under their own names."""
    if item.get("type") == "Identifier":
        return bool(item.get("alias", column) == column or parts_of(item)[-1] != column)
    return str(item.get("type")).endswith("Asterisk") and "transformers" not in item


def _holds(item: Node, column: str) -> bool:
    """Whether a value may be made of a column, by its name or by a `*` or COLUMNS that means it."""
    for node in walked(item):
        kind = str(node.get("type"))
        if kind == "Identifier" and column in parts_of(node):
            return True
        if kind.endswith("Matcher") or (kind.endswith("Asterisk") and node is item and "transformers" in node):
            return True
        if kind == "Function" and str(node.get("name")).lower() != "count":
            arguments = items(node.get("arguments"))
            if any(str(a.get("type")).endswith("Asterisk") for a in arguments):
                return True
    return False


def _tables(root: Any) -> list[Node]:
    found: list[Node] = []
    pending = [root]
    while pending:
        current = pending.pop()
        if isinstance(current, Mapping):
            if current.get("type") in ("TableIdentifier", "Identifier"):
                found.append(current)
            pending.extend(current.values())
        elif isinstance(current, list | tuple):
            pending.extend(current)
    return found
