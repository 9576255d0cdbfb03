"""Whether a per-tenant pipe keeps tenants apart, proved on the engine's syntax tree.

For the pool, one view runs over many tenants' rows at once. Its author must not be able to mix them by mistake: each
SELECT that reads tenants' rows has to pass the tenant column on as it is, and whatever works across rows (grouping,
windows, joins, limits) has to work within one tenant. What is not evidently so is refused, with a hint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from engine.compiler.functions import is_aggregate
from engine.errors import TENANT_MIX, RookeryError

Node = Mapping[str, Any]

ACROSS_ROWS = frozenset(
    {"neighbor", "runningdifference", "runningdifferencestartingwithfirstvalue", "runningaccumulate"}
    | {"rownumberinblock", "rownumberinallblocks", "blocknumber", "runningconcurrency"}
)


@dataclass(frozen=True, slots=True)
class _Source:
    """One table of a FROM: the name by which columns are qualified, and whether it holds tenants' rows."""

    name: str
    bearing: bool


def check_lineage(tree: Node, tenant: str, bearing: frozenset[str]) -> bool:
    """Whether a query reads names of `bearing` (tenants' rows); then its output carries the column `tenant`.

    Raises RK2013 where it could mix the rows of two tenants.
    """
    return _Lineage(tenant).union(tree, bearing)


@dataclass(frozen=True, slots=True)
class _Lineage:
    tenant: str

    def union(self, node: Node, bearing: frozenset[str]) -> bool:
        if node.get("type") == "SelectQuery":
            return self.select(node, bearing)
        found = [self.union(s, bearing) for s in node["list_of_selects"]["children"]]
        modes = {*node.get("list_of_modes", ()), node.get("union_mode")}
        if any(found) and not all(found):
            self._refuse("a UNION of tenants' rows with others", f"every branch must select `{self.tenant}`")
        if any(found) and any("EXCEPT" in str(m) or "INTERSECT" in str(m) for m in modes):
            self._refuse("EXCEPT or INTERSECT over tenants' rows", "use a join or a condition")
        return any(found)

    def select(self, node: Node, bearing: frozenset[str]) -> bool:
        names = self._with(node, bearing)
        sources = list(self._sources(node, names))
        self._no_tenant_subqueries(node, names)
        if not any(s.bearing for s in sources):
            return False
        self._joins(node, sources)
        self._across_rows(node, sources)
        self._output(node, sources)
        return True

    def _with(self, node: Node, bearing: frozenset[str]) -> frozenset[str]:
        names = set(bearing)
        if node.get("recursive_with"):
            self._refuse("WITH RECURSIVE", "write it without recursion")
        for item in _items(node.get("with")):
            if item.get("type") != "WithElement":
                continue
            content = item["subquery"]["children"][0]
            names.discard(item["name"])
            if self.union(content, frozenset(names)):
                names.add(item["name"])
        return frozenset(names)

    def _sources(self, node: Node, bearing: frozenset[str]) -> Iterator[_Source]:
        for element in _items(node.get("tables")):
            table = element.get("table_expression")
            if table is None:
                continue
            if "database_and_table_name" in table:
                named = table["database_and_table_name"]
                yield _Source(named.get("alias") or named["name"], named["name"] in bearing)
            elif "subquery" in table:
                inner = table["subquery"]
                yield _Source(inner.get("alias", ""), self.union(inner["children"][0], bearing))
            else:
                yield _Source(table.get("table_function", {}).get("alias", ""), False)

    def _no_tenant_subqueries(self, node: Node, bearing: frozenset[str]) -> None:
        """A subquery in an expression answers once for all tenants, so it may not read their rows."""
        for key, value in node.items():
            if key in {"tables", "with"}:
                continue
            for inner in _walk(value):
                if inner.get("type") == "Subquery" and self.union(inner["children"][0], bearing):
                    self._refuse("a subquery over tenants' rows in an expression", "join it on the tenant column")
        for item in _items(node.get("with")):
            if item.get("type") == "Subquery" and self.union(item["children"][0], bearing):
                self._refuse("a scalar over tenants' rows", "join it on the tenant column")

    def _joins(self, node: Node, sources: list[_Source]) -> None:
        if sum(s.bearing for s in sources) < 2:
            if not sources[0].bearing:
                self._refuse("tenants' rows on the right of a join", "put them first in FROM")
            return
        for element in _items(node.get("tables")):
            join = element.get("table_join")
            if join is None:
                continue
            using = [i.get("name") for i in _items(join.get("using_expression_list"))]
            if self.tenant not in using and not self._equates(join.get("on_expression"), sources):
                self._refuse("a join of tenants' rows", f"join USING ({self.tenant}, …)")

    def _equates(self, condition: Node | None, sources: list[_Source]) -> bool:
        """Whether an AND of conditions holds `a.tenant = b.tenant` for two tables."""
        if condition is None or condition.get("type") != "Function":
            return False
        arguments = _items(condition.get("arguments"))
        if condition["name"] == "and":
            return any(self._equates(a, sources) for a in arguments)
        if condition["name"] != "equals" or not all(self._is_tenant(a) for a in arguments):
            return False
        qualifiers = {a.get("name_parts", [""])[0] for a in arguments}
        return len(qualifiers & {s.name for s in sources if s.bearing}) == 2

    def _across_rows(self, node: Node, sources: list[_Source]) -> None:
        for flag in ("cube", "rollup", "grouping_sets", "totals"):
            if node.get(f"group_by_with_{flag}"):
                self._refuse(f"GROUP BY WITH {flag.upper()}", "its super-rows would span tenants")
        if "interpolate" in node or any(o.get("with_fill") for o in _items(node.get("order_by"))):
            self._refuse("WITH FILL", "it would fill gaps between tenants")
        aggregates = False
        for key in ("select", "having", "order_by", "qualify"):
            for inner in _walk(node.get(key)):
                aggregates |= self._function(inner, node)
        grouped = _items(node.get("group_by"))
        if node.get("group_by_all"):
            return
        if (aggregates or grouped) and not any(self._is_tenant(g) for g in grouped):
            self._refuse("an aggregate over several tenants", f"add `{self.tenant}` to GROUP BY")
        limited = _items(node.get("limit_by"))
        if limited and not any(self._is_tenant(x) for x in limited):
            self._refuse("LIMIT BY over several tenants", f"add `{self.tenant}` to LIMIT BY")
        if "limit_length" in node or "limit_offset" in node:
            self._refuse("LIMIT over several tenants", f"use LIMIT n BY {self.tenant}")

    def _function(self, inner: Node, select: Node) -> bool:
        """Judge a function that may work across rows; whether it is an aggregate of the SELECT."""
        if inner.get("type") != "Function":
            return False
        name = str(inner.get("name", ""))
        if name.lower() in ACROSS_ROWS:
            self._refuse(f"the function {name}", f"use a window PARTITION BY {self.tenant}")
        if inner.get("is_window_function"):
            window = inner.get("window_definition") or self._window(select, inner.get("window_name"))
            if not any(self._is_tenant(p) for p in _items((window or {}).get("partition_by"))):
                self._refuse("a window over several tenants", f"add PARTITION BY {self.tenant}")
            return False
        return is_aggregate(name)

    @staticmethod
    def _window(select: Node, name: object) -> Node | None:
        windows = _items(select.get("window"))
        return next((w["definition"] for w in windows if w.get("name") == name), None)

    def _output(self, node: Node, sources: list[_Source]) -> None:
        passed = False
        for item in _items(node.get("select")):
            alias = item.get("alias")
            if self._is_tenant(item) and alias in (None, self.tenant):
                passed |= self._from_bearing(item, sources)
            elif alias == self.tenant:
                self._refuse(f"another value under the name `{self.tenant}`", "pass the column on as it is")
            elif item.get("type") in {"Asterisk", "QualifiedAsterisk"}:
                passed |= self._star(item, sources)
        if not passed:
            self._refuse(f"rows without `{self.tenant}`", f"add `{self.tenant}` to every SELECT, as it is")

    def _star(self, item: Node, sources: list[_Source]) -> bool:
        for transformer in _items(item.get("transformers")):
            names = [c.get("name") for c in _items(transformer)]
            if transformer["type"] != "ColumnsExceptTransformer" or "pattern" in transformer or self.tenant in names:
                self._refuse("a changed `*`", f"list the columns, `{self.tenant}` among them")
        qualifier = item.get("qualifier", {}).get("name")
        return sources[0].bearing if qualifier is None else any(s.bearing and s.name == qualifier for s in sources)

    def _from_bearing(self, item: Node, sources: list[_Source]) -> bool:
        parts = item.get("name_parts")
        if not parts:
            return True
        return any(s.bearing and s.name == parts[0] for s in sources)

    def _is_tenant(self, node: Node) -> bool:
        if node.get("type") != "Identifier":
            return False
        parts = node.get("name_parts") or [node.get("name")]
        return len(parts) <= 2 and parts[-1] == self.tenant

    def _refuse(self, what: str, hint: str) -> None:
        raise RookeryError(TENANT_MIX, f"the pipe could mix tenants: {what}", hint=hint)


def _items(node: Any) -> list[Node]:
    """The members of a list node; an absent one has none."""
    if node is None:
        return []
    children = node.get("children", []) if isinstance(node, Mapping) else node
    found: list[Node] = []
    for child in children:
        if isinstance(child, str):
            found.append({"type": "Identifier", "name": child})
        elif child.get("type") == "ExpressionList":
            found.extend(_items(child))
        else:
            found.append(child)
    return found


def _walk(value: Any) -> Iterator[Node]:
    """Every node below a value, but not into subqueries, which are judged on their own."""
    pending = [value]
    while pending:
        current = pending.pop()
        if isinstance(current, Mapping):
            if "type" in current:
                yield current
            if current.get("type") != "Subquery":
                pending.extend(current.values())
        elif isinstance(current, list | tuple):
            pending.extend(current)
