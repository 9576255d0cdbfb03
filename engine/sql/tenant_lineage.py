"""Proves from the syntax tree that a per-tenant pipe keeps tenants apart.

For pooled tenants, one view processes the rows of many tenants at once, and its author must not mix them by mistake.
Each SELECT that reads tenants' rows has to pass on the tenant column unchanged. Everything that works across rows
(grouping, windows, joins, limits) has to work within one tenant. A query for which this cannot be proved is refused,
with a hint.

Two properties of the engine shape the rules. An alias anywhere in a SELECT takes precedence over a column of the same
name, so other values must not have the name of the tenant column. A join may fill a column with its type's default,
which can be the id of a tenant, so the tenant is always that of the left-most table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from engine.errors import TENANT_MIX, RookeryError
from engine.sql.functions import MEMBERSHIP, is_aggregate
from engine.sql.tree import Node, flat_members, identifier_parts, walk_all, walk_select

ROW_ORDER_FUNCTIONS = frozenset(
    {"neighbor", "runningdifference", "runningdifferencestartingwithfirstvalue", "runningaccumulate"}
    | {"rownumberinblock", "rownumberinallblocks", "blocknumber", "blocksize", "runningconcurrency"}
)
"""Functions whose result depends on the order or the number of other rows."""
JOINS = {"INNER": {None, "ALL", "ASOF"}, "LEFT": {None, "ALL", "ANY", "ASOF", "SEMI", "ANTI"}}
"""Join kind → strictnesses with which the result for a left row depends only on that row. INNER ANY is not included,
because it keeps one left row per key.
"""


@dataclass(frozen=True, slots=True)
class _Source:
    """One table in FROM."""

    name: str
    """The name that qualifies its columns."""
    holds_tenants: bool
    """Whether it holds tenants' rows."""
    join: Node | None
    """How it is joined to the tables before it; None for the first."""


def check_lineage(tree: Node, tenant: str, bearing: frozenset[str], names: frozenset[str] = frozenset()) -> bool:
    """Whether a query returns tenants' rows; if so, its output has the column `tenant`.

    `bearing` are the names that hold tenants' rows. `names` are the columns and aliases of what the query reads: a
    qualifier that equals one of them could mean an element of that value instead of a table.
    Raises RK2013 if the query could mix the rows of two tenants.
    """
    lineage = Lineage(tenant, names | names_of_values(tree))
    lineage.refuse_repeated_names(tree)
    return lineage.union(tree, bearing)


def names_of_values(tree: Node) -> frozenset[str]:
    """Every name that a query gives to a value: aliases, lists of column names, and elements of tuples."""
    names: set[str] = set()
    for node in walk_all(tree):
        if node.get("type") not in ("TableIdentifier", "Subquery"):
            names |= {node["alias"]} if "alias" in node else set()
        for key in ("column_aliases", "aliases"):
            names |= {str(n.get("name")) for n in flat_members(node.get(key))}
        if node.get("type") == "Identifier" and len(identifier_parts(node)) > 1:
            names.add(identifier_parts(node)[-1])
    return frozenset(names)


@dataclass(frozen=True, slots=True)
class Lineage:
    """The proof for one tenant column."""

    tenant: str
    """The tenant column."""
    names: frozenset[str] = field(default_factory=frozenset)
    """Names of values. A table of the same name cannot qualify a column reliably."""

    # --- queries ---

    def union(self, node: Node, bearing: frozenset[str]) -> bool:
        """Whether a SELECT or a UNION returns tenants' rows. Raises RK2013 if it could mix them."""
        if node.get("type") == "SelectQuery":
            return self._select(node, bearing)
        selects = node["list_of_selects"]["children"]
        # As in the engine, the WITH queries of the first SELECT are visible in the others.
        shared = self._with(selects[0], bearing) if len(selects) > 1 else bearing
        holds_tenants = [self.union(select, shared if n else bearing) for n, select in enumerate(selects)]
        if len(holds_tenants) < 2 or not any(holds_tenants):
            return any(holds_tenants)
        modes = {*node.get("list_of_modes", ()), node.get("union_mode")}
        if not all(holds_tenants):
            self._refuse("a UNION of tenants' rows with others", f"every branch must select `{self.tenant}`")
        if any("EXCEPT" in str(m) or "INTERSECT" in str(m) for m in modes):
            self._refuse("EXCEPT or INTERSECT over tenants' rows", "use a join or a condition")
        # Only a tenant that is first in each branch is certainly in the same column.
        if not all(self._begins_with_tenant(select) for select in selects):
            self._refuse(
                "a UNION, which matches columns by position",
                f"list the columns in every branch, `{self.tenant}` first",
            )
        return True

    def _begins_with_tenant(self, node: Node) -> bool:
        if node.get("type") != "SelectQuery":
            return all(self._begins_with_tenant(s) for s in node["list_of_selects"]["children"])
        first = flat_members(node.get("select"))[0]
        return first.get("type") == "Identifier" and identifier_parts(first)[-1] == self.tenant

    def refuse_repeated_names(self, tree: Node) -> None:
        """Refuse two WITH queries with the same name. The engine resolves the name where it is used, and it could
        mean either.
        """
        nodes = walk_all(tree)
        counts = Counter(n["name"] for n in nodes if n.get("type") == "WithElement")
        for name, count in counts.items():
            if count > 1:
                self._refuse(f"two WITH queries named `{name}`", "give each one its own name")

    def _select(self, node: Node, bearing: frozenset[str]) -> bool:
        """Whether a SELECT returns tenants' rows. Raises RK2013 unless it keeps them apart."""
        readable = self._with(node, bearing)
        sources = list(self._sources(node, readable))
        nodes = list(walk_select(node))
        self._refuse_tenant_subqueries(nodes, readable)
        if not any(s.holds_tenants for s in sources):
            return False
        self._refuse_other_tenant_names(nodes, node)
        self._check_joins(sources)
        tenants: set[tuple[str, ...]] = {(self.tenant,)}
        # `t.tenant` means an element of a value `t` if there is one.
        if sources[0].name not in self.names:
            tenants.add((sources[0].name, self.tenant))
        self._check_across_rows(node, nodes, tenants)
        self._check_output(node, sources, tenants)
        return True

    def _with(self, node: Node, bearing: frozenset[str]) -> frozenset[str]:
        """The names that hold tenants' rows, after the WITH queries of a SELECT."""
        names = set(bearing)
        for item in flat_members(node.get("with")):
            if item.get("type") != "WithElement":
                continue
            content = item["subquery"]["children"][0]
            # The query hides a datasource of the same name. Whether it holds tenants is decided by its own content.
            names.discard(item["name"])
            if self.union(content, frozenset(names)):
                names.add(item["name"])
                if node.get("recursive_with"):
                    self._refuse("WITH RECURSIVE", "write it without recursion")
                if "aliases" in item:
                    self._refuse("column names after a WITH query", "name its columns with AS")
        return frozenset(names)

    def _sources(self, node: Node, bearing: frozenset[str]) -> Iterator[_Source]:
        """The tables in FROM, in order, each with whether it holds tenants' rows."""
        for element in flat_members(node.get("tables")):
            table = element.get("table_expression")
            if table is None:
                continue
            join = element.get("table_join")
            if "database_and_table_name" in table:
                identifier = table["database_and_table_name"]
                source = _Source(identifier.get("alias") or identifier["name"], identifier["name"] in bearing, join)
            elif "subquery" in table:
                subquery = table["subquery"]
                source = _Source(subquery.get("alias", ""), self.union(subquery["children"][0], bearing), join)
            else:
                source = _Source(table.get("table_function", {}).get("alias", ""), False, join)
            if source.holds_tenants and "column_aliases" in table:
                self._refuse("column names after a table", "name its columns with AS")
            yield source

    def _refuse_tenant_subqueries(self, nodes: list[Node], bearing: frozenset[str]) -> None:
        """Refuse subqueries over tenants' rows in expressions: one result would serve all tenants."""
        for node in nodes:
            if node.get("type") == "Subquery" and self.union(node["children"][0], bearing):
                self._refuse("a subquery over tenants' rows in an expression", "join it on the tenant column")
            if node.get("type") == "Function" and str(node.get("name", "")).lower() in MEMBERSHIP:
                right = flat_members(node.get("arguments"))[-1]
                if right.get("type") == "Identifier" and right.get("name") in bearing:
                    self._refuse(f"IN {right['name']}, which holds tenants' rows", "join it on the tenant column")

    # --- one SELECT over tenants' rows ---

    def _refuse_other_tenant_names(self, nodes: list[Node], node: Node) -> None:
        """Refuse an alias that gives the tenant column's name to another value."""
        columns = [item for item in flat_members(node.get("select")) if item.get("type") == "Identifier"]
        for other in nodes:
            if other.get("alias") == self.tenant and all(other is not column for column in columns):
                self._refuse(f"another value under the name `{self.tenant}`", "pass the column on unchanged")

    def _check_joins(self, sources: list[_Source]) -> None:
        """Refuse joins that could combine rows of two tenants, or that have tenants' rows only on the right side."""
        first = sources[0]
        if not first.holds_tenants:
            self._refuse("tenants' rows on the right of a join", "put them first in FROM")
        for n, source in enumerate(sources[1:], 1):
            join = source.join or {}
            kind, strictness = str(join.get("kind")), join.get("strictness")
            # Every row is combined with the same rows of the other table, so tenants do not affect each other.
            unconditional = kind in ("CROSS", "COMMA") and not source.holds_tenants
            if join.get("is_natural") or not (unconditional or strictness in JOINS.get(kind, ())):
                spelled = " ".join(str(w) for w in (strictness, kind) if w)
                self._refuse(f"a join of the kind {spelled}", "use LEFT JOIN or INNER JOIN with ON or USING")
            if any(s.name == source.name for s in sources[:n]):
                self._refuse(f"two tables named `{source.name}`", "give each one its own alias")
            tenant_columns_merged = all(
                flat_members((s.join or {}).get("using_expression_list")) and s.holds_tenants for s in sources[1:n]
            )
            if source.holds_tenants and not self.within_tenant(join, first.name, source.name, tenant_columns_merged):
                on = f"{first.name}.{self.tenant} = {source.name}.{self.tenant}"
                self._refuse("a join of tenants' rows", f"join USING ({self.tenant}, …), or ON {on}")

    def within_tenant(self, join: Node, left: str, right: str, tenant_columns_merged: bool) -> bool:
        """Whether a join only combines rows of the same tenant.

        `tenant_columns_merged` says whether USING has merged the tenant columns of all tables so far, so that USING
        can only mean the merged column. ASOF … USING does not prove anything, because its last column is not compared
        for equality.
        """
        using = flat_members(join.get("using_expression_list"))
        if using:
            unambiguous = (
                tenant_columns_merged
                and join.get("strictness") != "ASOF"
                and all(set(i) <= {"type", "name"} for i in using)
            )
            return unambiguous and self.tenant in [i.get("name") for i in using]
        return not {left, right} & self.names and self._equates(join.get("on_expression"), {left, right})

    def _equates(self, condition: Node | None, tables: set[str]) -> bool:
        """Whether a conjunction includes `left.tenant = right.tenant`."""
        if condition is None or condition.get("type") != "Function":
            return False
        arguments = flat_members(condition.get("arguments"))
        # One equality in a conjunction is enough, because the other conditions only remove pairs.
        if condition["name"] == "and":
            return any(self._equates(a, tables) for a in arguments)
        if condition["name"] != "equals" or any(a.get("type") != "Identifier" for a in arguments):
            return False
        identifiers = [identifier_parts(a) for a in arguments]
        return all(len(p) == 2 and p[1] == self.tenant for p in identifiers) and {p[0] for p in identifiers} == tables

    def _check_across_rows(self, select: Node, nodes: list[Node], tenants: set[tuple[str, ...]]) -> None:
        """Refuse clauses that combine, count or fill rows across tenants. `tenants` are spellings of the column."""
        for flag in ("cube", "rollup", "grouping_sets", "totals"):
            if select.get(f"group_by_with_{flag}"):
                self._refuse(f"GROUP BY WITH {flag.upper()}", "its subtotal rows would span tenants")
        if "interpolate" in select or any(i.get("with_fill") for i in nodes):
            self._refuse("WITH FILL", "it would fill gaps between tenants")
        if "limit_length" in select or "limit_offset" in select:
            self._refuse("LIMIT over several tenants", f"use LIMIT n BY {self.tenant}")
        limited = flat_members(select.get("limit_by"))
        if limited and not _any_of(limited, tenants):
            self._refuse("LIMIT BY over several tenants", f"add `{self.tenant}` to LIMIT BY")
        aggregates = [self._function(other, select, tenants) for other in nodes]
        grouped = flat_members(select.get("group_by"))
        # GROUP BY ALL groups by every output that does not aggregate, and the tenant column must be one of them.
        if (any(aggregates) or grouped) and not select.get("group_by_all") and not _any_of(grouped, tenants):
            self._refuse("an aggregate over several tenants", f"add `{self.tenant}` to GROUP BY")

    def _function(self, node: Node, select: Node, tenants: set[tuple[str, ...]]) -> bool:
        """Check a function that may work across rows. Returns whether it is an aggregate of the SELECT."""
        if node.get("type") != "Function":
            return False
        name = str(node.get("name", ""))
        if name.lower() in ROW_ORDER_FUNCTIONS:
            self._refuse(f"the function {name}", f"use a window PARTITION BY {self.tenant}")
        if name.lower() == "untuple":
            self._refuse("untuple, which names its output columns itself", "write the elements out, as in `t.a AS a`")
        if node.get("is_window_function"):
            window = node.get("window_definition") or self._window(select, node.get("window_name"))
            if not _any_of(flat_members((window or {}).get("partition_by")), tenants):
                self._refuse("a window over several tenants", f"add PARTITION BY {self.tenant}")
            return False
        return is_aggregate(name)

    @staticmethod
    def _window(select: Node, name: object) -> Node | None:
        windows = flat_members(select.get("window"))
        return next((w["definition"] for w in windows if w.get("name") == name), None)

    def _check_output(self, select: Node, sources: list[_Source], tenants: set[tuple[str, ...]]) -> None:
        """Refuse a SELECT that does not output the tenant column of the first table under its name."""
        passed = False
        for item in flat_members(select.get("select")):
            kind = item.get("type", "")
            if kind in ("Asterisk", "QualifiedAsterisk"):
                self._check_star(item, sources)
                passed = True
            elif kind.endswith("Matcher"):
                self._refuse("COLUMNS(…)", f"list the columns, including `{self.tenant}`")
            elif kind == "Identifier" and item.get("alias", identifier_parts(item)[-1]) == self.tenant:
                if identifier_parts(item) not in tenants:
                    self._refuse(
                        f"another value under the name `{self.tenant}`",
                        f"pass on the column of the first table, which is `{sources[0].name}`",
                    )
                passed = True
        if not passed:
            self._refuse(f"rows without `{self.tenant}`", f"add `{self.tenant}` to every SELECT, as it is")

    def _check_star(self, item: Node, sources: list[_Source]) -> None:
        """Refuse `*` unless it certainly includes the tenant column of the first table, unchanged."""
        for transformer in flat_members(item.get("transformers")):
            names = [c.get("name") for c in flat_members(transformer)]
            if transformer["type"] != "ColumnsExceptTransformer" or "pattern" in transformer or self.tenant in names:
                self._refuse("a changed `*`", f"list the columns, including `{self.tenant}`")
        if "qualifier" not in item:
            if len(sources) > 1:
                self._refuse("`*` of several tables", f"list the columns, including `{self.tenant}`")
        elif identifier_parts(item["qualifier"]) != (sources[0].name,) or sources[0].name in self.names:
            self._refuse(
                f"`{item['qualifier'].get('name')}.*`",
                "list the columns; only all columns of the first table can be selected with `*`",
            )

    def _refuse(self, what: str, hint: str) -> NoReturn:
        raise RookeryError(TENANT_MIX, f"the pipe could mix tenants: {what}", hint=hint)


def _any_of(nodes: list[Node], tenants: set[tuple[str, ...]]) -> bool:
    return any(n.get("type") == "Identifier" and identifier_parts(n) in tenants for n in nodes)
