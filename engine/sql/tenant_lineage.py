"""Whether a per-tenant pipe keeps tenants apart, proved on the engine's syntax tree.

For the pool, one view runs over many tenants' rows at once. Its author must not be able to mix them by mistake: each
SELECT that reads tenants' rows has to pass the tenant column on as it is, and whatever works across rows (grouping,
windows, joins, limits) has to work within one tenant. What is not evidently so is refused, with a hint.

In the engine an alias, wherever it stands in a SELECT, wins over a column of the same name, and a join may fill a
column with its type's default, which can be somebody's id. Therefore nothing else may be called like the tenant
column, and the tenant is always that of the left-most table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from engine.errors import TENANT_MIX, RookeryError
from engine.sql.checker import MEMBERSHIP
from engine.sql.functions import is_aggregate

Node = Mapping[str, Any]

_INSIDE = frozenset({"Subquery", "WithElement"})
ACROSS_ROWS = frozenset(
    {"neighbor", "runningdifference", "runningdifferencestartingwithfirstvalue", "runningaccumulate"}
    | {"rownumberinblock", "rownumberinallblocks", "blocknumber", "blocksize", "runningconcurrency"}
)
JOINS = {"INNER": {None, "ALL", "ASOF"}, "LEFT": {None, "ALL", "ANY", "ASOF", "SEMI", "ANTI"}}
"""Joins that answer for each row of the left side alone. ANY INNER does not: it takes one per key."""


@dataclass(frozen=True, slots=True)
class _Source:
    """One table of a FROM: the name by which columns are qualified, whether it holds tenants' rows, and its join."""

    name: str
    bearing: bool
    join: Node | None


def check_lineage(tree: Node, tenant: str, bearing: frozenset[str], names: frozenset[str] = frozenset()) -> bool:
    """Whether a query reads names of `bearing` (tenants' rows); then its output carries the column `tenant`.

    `names` are the columns and aliases of what it reads: a qualifier of that name could mean a part of them.
    Raises RK2013 where it could mix the rows of two tenants.
    """
    lineage = Lineage(tenant, names | named(tree))
    lineage.local_names(tree)
    return lineage.union(tree, bearing)


def named(tree: Node) -> frozenset[str]:
    """Every name that a query gives to a value: aliases, lists of column names, and elements that it reaches into."""
    found: set[str] = set()
    for node in walked(tree, into=_INSIDE):
        if node.get("type") not in ("TableIdentifier", "Subquery"):
            found |= {node["alias"]} if "alias" in node else set()
        for key in ("column_aliases", "aliases"):
            found |= {str(n.get("name")) for n in items(node.get(key))}
        if node.get("type") == "Identifier" and len(parts_of(node)) > 1:
            found.add(parts_of(node)[-1])
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class Lineage:
    """The proof for one tenant column; `names` are names of values, which no qualifier may share."""

    tenant: str
    names: frozenset[str] = field(default_factory=frozenset)

    # --- queries ---

    def union(self, node: Node, bearing: frozenset[str]) -> bool:
        if node.get("type") == "SelectQuery":
            return self._select(node, bearing)
        selects = node["list_of_selects"]["children"]
        # WITH of the first SELECT reaches the others, as it does in the engine.
        shared = self._with(selects[0], bearing) if len(selects) > 1 else bearing
        found = [self.union(s, shared if n else bearing) for n, s in enumerate(selects)]
        if len(found) < 2 or not any(found):
            return any(found)
        modes = {*node.get("list_of_modes", ()), node.get("union_mode")}
        if not all(found):
            self._refuse("a UNION of tenants' rows with others", f"every branch must select `{self.tenant}`")
        if any("EXCEPT" in str(m) or "INTERSECT" in str(m) for m in modes):
            self._refuse("EXCEPT or INTERSECT over tenants' rows", "use a join or a condition")
        if not all(self._begins_with_tenant(s) for s in selects):
            self._refuse(
                "a UNION, which goes by position", f"list the columns in every branch, `{self.tenant}` first"
            )
        return True

    def _begins_with_tenant(self, node: Node) -> bool:
        if node.get("type") != "SelectQuery":
            return all(self._begins_with_tenant(s) for s in node["list_of_selects"]["children"])
        first = items(node.get("select"))[0]
        return first.get("type") == "Identifier" and parts_of(first)[-1] == self.tenant

    def local_names(self, tree: Node) -> None:
        """The engine resolves a WITH query where it is used, so a name must mean one query in the whole text."""
        found = walked(tree, into=_INSIDE)
        counted = Counter(n["name"] for n in found if n.get("type") == "WithElement")
        for name, count in counted.items():
            if count > 1:
                self._refuse(f"two WITH queries named `{name}`", "give each a name of its own")

    def _select(self, node: Node, bearing: frozenset[str]) -> bool:
        readable = self._with(node, bearing)
        sources = list(self._sources(node, readable))
        own = list(walked(node))
        self._no_tenant_subqueries(own, readable)
        if not any(s.bearing for s in sources):
            return False
        self._aliases(own, node)
        self._joins(sources)
        tenants: set[tuple[str, ...]] = {(self.tenant,)}
        if sources[0].name not in self.names:
            tenants.add((sources[0].name, self.tenant))
        self._across_rows(node, own, tenants)
        self._output(node, sources, tenants)
        return True

    def _with(self, node: Node, bearing: frozenset[str]) -> frozenset[str]:
        names = set(bearing)
        for item in items(node.get("with")):
            if item.get("type") != "WithElement":
                continue
            content = item["subquery"]["children"][0]
            names.discard(item["name"])
            if self.union(content, frozenset(names)):
                names.add(item["name"])
                if node.get("recursive_with"):
                    self._refuse("WITH RECURSIVE", "write it without recursion")
                if "aliases" in item:
                    self._refuse("column names after a WITH query", "name its columns with AS")
        return frozenset(names)

    def _sources(self, node: Node, bearing: frozenset[str]) -> Iterator[_Source]:
        for element in items(node.get("tables")):
            table = element.get("table_expression")
            if table is None:
                continue
            join = element.get("table_join")
            if "database_and_table_name" in table:
                named = table["database_and_table_name"]
                found = _Source(named.get("alias") or named["name"], named["name"] in bearing, join)
            elif "subquery" in table:
                inner = table["subquery"]
                found = _Source(inner.get("alias", ""), self.union(inner["children"][0], bearing), join)
            else:
                found = _Source(table.get("table_function", {}).get("alias", ""), False, join)
            if found.bearing and "column_aliases" in table:
                self._refuse("column names after a table", "name its columns with AS")
            yield found

    def _no_tenant_subqueries(self, own: list[Node], bearing: frozenset[str]) -> None:
        """A subquery in an expression answers once for all tenants, so it may not read their rows."""
        for inner in own:
            if inner.get("type") == "Subquery" and self.union(inner["children"][0], bearing):
                self._refuse("a subquery over tenants' rows in an expression", "join it on the tenant column")
            if inner.get("type") == "Function" and str(inner.get("name", "")).lower() in MEMBERSHIP:
                right = items(inner.get("arguments"))[-1]
                if right.get("type") == "Identifier" and right.get("name") in bearing:
                    self._refuse(f"IN {right['name']}, which holds tenants' rows", "join it on the tenant column")

    # --- one SELECT over tenants' rows ---

    def _aliases(self, own: list[Node], node: Node) -> None:
        plain = [i for i in items(node.get("select")) if i.get("type") == "Identifier"]
        for inner in own:
            if inner.get("alias") == self.tenant and all(inner is not p for p in plain):
                self._refuse(f"another value under the name `{self.tenant}`", "pass the column on as it is")

    def _joins(self, sources: list[_Source]) -> None:
        first = sources[0]
        if not first.bearing:
            self._refuse("tenants' rows on the right of a join", "put them first in FROM")
        for n, source in enumerate(sources[1:], 1):
            join = source.join or {}
            kind, strictness = str(join.get("kind")), join.get("strictness")
            unconditional = kind in ("CROSS", "COMMA") and not source.bearing
            if join.get("is_natural") or not (unconditional or strictness in JOINS.get(kind, ())):
                what = " ".join(str(w) for w in (strictness, kind) if w)
                self._refuse(f"a join of the kind {what}", "use LEFT JOIN or INNER JOIN with ON or USING")
            if any(s.name == source.name for s in sources[:n]):
                self._refuse(f"two tables named `{source.name}`", "give each an alias of its own")
            merged = all(items((s.join or {}).get("using_expression_list")) and s.bearing for s in sources[1:n])
            if source.bearing and not self.within_tenant(join, first.name, source.name, merged):
                on = f"{first.name}.{self.tenant} = {source.name}.{self.tenant}"
                self._refuse("a join of tenants' rows", f"join USING ({self.tenant}, …), or ON {on}")

    def within_tenant(self, join: Node, left: str, right: str, merged: bool) -> bool:
        """Whether rows only meet rows of their own tenant. The last column of ASOF … USING is not for equality.

        `merged` says whether all tables so far have one tenant column, so that USING can mean no other.
        """
        using = items(join.get("using_expression_list"))
        if using:
            plain = merged and join.get("strictness") != "ASOF" and all(set(i) <= {"type", "name"} for i in using)
            return plain and self.tenant in [i.get("name") for i in using]
        return not {left, right} & self.names and self._equates(join.get("on_expression"), {left, right})

    def _equates(self, condition: Node | None, tables: set[str]) -> bool:
        """Whether an AND of conditions holds `left.tenant = right.tenant`."""
        if condition is None or condition.get("type") != "Function":
            return False
        arguments = items(condition.get("arguments"))
        if condition["name"] == "and":
            return any(self._equates(a, tables) for a in arguments)
        if condition["name"] != "equals" or any(a.get("type") != "Identifier" for a in arguments):
            return False
        named = [parts_of(a) for a in arguments]
        return all(len(p) == 2 and p[1] == self.tenant for p in named) and {p[0] for p in named} == tables

    def _across_rows(self, node: Node, own: list[Node], tenants: set[tuple[str, ...]]) -> None:
        for flag in ("cube", "rollup", "grouping_sets", "totals"):
            if node.get(f"group_by_with_{flag}"):
                self._refuse(f"GROUP BY WITH {flag.upper()}", "its super-rows would span tenants")
        if "interpolate" in node or any(i.get("with_fill") for i in own):
            self._refuse("WITH FILL", "it would fill gaps between tenants")
        if "limit_length" in node or "limit_offset" in node:
            self._refuse("LIMIT over several tenants", f"use LIMIT n BY {self.tenant}")
        limited = items(node.get("limit_by"))
        if limited and not _any_of(limited, tenants):
            self._refuse("LIMIT BY over several tenants", f"add `{self.tenant}` to LIMIT BY")
        aggregates = [self._function(inner, node, tenants) for inner in own]
        grouped = items(node.get("group_by"))
        if (any(aggregates) or grouped) and not node.get("group_by_all") and not _any_of(grouped, tenants):
            self._refuse("an aggregate over several tenants", f"add `{self.tenant}` to GROUP BY")

    def _function(self, inner: Node, select: Node, tenants: set[tuple[str, ...]]) -> bool:
        """Judge a function that may work across rows; whether it is an aggregate of the SELECT."""
        if inner.get("type") != "Function":
            return False
        name = str(inner.get("name", ""))
        if name.lower() in ACROSS_ROWS:
            self._refuse(f"the function {name}", f"use a window PARTITION BY {self.tenant}")
        if name.lower() == "untuple":
            self._refuse("untuple, which names columns itself", "write the elements out, as in `t.a AS a`")
        if inner.get("is_window_function"):
            window = inner.get("window_definition") or self._window(select, inner.get("window_name"))
            if not _any_of(items((window or {}).get("partition_by")), tenants):
                self._refuse("a window over several tenants", f"add PARTITION BY {self.tenant}")
            return False
        return is_aggregate(name)

    @staticmethod
    def _window(select: Node, name: object) -> Node | None:
        windows = items(select.get("window"))
        return next((w["definition"] for w in windows if w.get("name") == name), None)

    def _output(self, node: Node, sources: list[_Source], tenants: set[tuple[str, ...]]) -> None:
        passed = False
        for item in items(node.get("select")):
            kind = item.get("type", "")
            if kind in ("Asterisk", "QualifiedAsterisk"):
                self._star(item, sources)
                passed = True
            elif kind.endswith("Matcher"):
                self._refuse("COLUMNS(…)", f"list the columns, `{self.tenant}` among them")
            elif kind == "Identifier" and item.get("alias", parts_of(item)[-1]) == self.tenant:
                if parts_of(item) not in tenants:
                    self._refuse(
                        f"another value under the name `{self.tenant}`",
                        f"pass on the column of the first table, which is `{sources[0].name}`",
                    )
                passed = True
        if not passed:
            self._refuse(f"rows without `{self.tenant}`", f"add `{self.tenant}` to every SELECT, as it is")

    def _star(self, item: Node, sources: list[_Source]) -> None:
        for transformer in items(item.get("transformers")):
            names = [c.get("name") for c in items(transformer)]
            if transformer["type"] != "ColumnsExceptTransformer" or "pattern" in transformer or self.tenant in names:
                self._refuse("a changed `*`", f"list the columns, `{self.tenant}` among them")
        if "qualifier" not in item:
            if len(sources) > 1:
                self._refuse("`*` of several tables", f"list the columns, `{self.tenant}` among them")
        elif parts_of(item["qualifier"]) != (sources[0].name,) or sources[0].name in self.names:
            self._refuse(
                f"`{item['qualifier'].get('name')}.*`", "list the columns; only the first table can be passed whole"
            )

    def _refuse(self, what: str, hint: str) -> NoReturn:
        raise RookeryError(TENANT_MIX, f"the pipe could mix tenants: {what}", hint=hint)


def parts_of(node: Node) -> tuple[str, ...]:
    """An identifier, split at its dots."""
    return tuple(node.get("name_parts") or [node.get("name", "")])


def _any_of(nodes: list[Node], tenants: set[tuple[str, ...]]) -> bool:
    return any(n.get("type") == "Identifier" and parts_of(n) in tenants for n in nodes)


def items(node: Any) -> list[Node]:
    """The members of a list node; an absent one has none."""
    if node is None:
        return []
    children = node.get("children", []) if isinstance(node, Mapping) else node
    found: list[Node] = []
    for child in children:
        if isinstance(child, str):
            found.append({"type": "Identifier", "name": child})
        elif child.get("type") == "ExpressionList":
            found.extend(items(child))
        else:
            found.append(child)
    return found


def walked(root: Node, into: frozenset[str] = frozenset()) -> Iterator[Node]:
    """Every node below one, that one included, but not what is inside of subqueries, which are judged on their own.

    A subquery that stands as a table is no part of the SELECT's expressions and is left out with all that is in it.
    """
    pending: list[Any] = [root]
    while pending:
        current = pending.pop()
        if isinstance(current, Mapping):
            if "type" in current:
                yield current
            opaque = current.get("type") in _INSIDE - into
            left_out = () if into else ("subquery",)
            pending.extend(() if opaque else (v for k, v in current.items() if k not in left_out))
        elif isinstance(current, list | tuple):
            pending.extend(current)
