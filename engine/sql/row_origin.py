"""Derives from a query's syntax tree whose rows its output contains: those of no tenant, one tenant, or several
tenants.

A query over tenants' rows is *pinned* to one tenant if `WHERE` restricts each table of several tenants to the same
tenant, by a conjunct that compares that table's tenant column with a literal. In any other case the output counts as
rows of several tenants.

In the engine, aliases take precedence over columns. So a bare name does not prove anything if the SQL gives this name
to another value. Some joins and functions compute a row's values from rows that WHERE removes later. If these are
used, a condition does not prove anything either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from engine.errors import RookeryError
from engine.sql.functions import MEMBERSHIP
from engine.sql.tenant_lineage import JOINS, ROW_ORDER_FUNCTIONS, Lineage, names_of_values
from engine.sql.tree import Node, flat_members, identifier_parts, walk_all, walk_select
from engine.tenant_ids import base_type, canonical_tenant

Kind = Literal["public", "pinned", "carried", "mixed"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose rows a table or a query's output contains.

    `public`: no tenant's rows. `pinned`: rows of one `tenant` (a canonical id). `carried`: rows of many tenants, each
    with its tenant in `column`, which has `type`. `mixed`: rows of several tenants without a tenant column.
    """

    kind: Kind
    tenant: str = ""
    column: str = ""
    type: str = ""


PUBLIC = Origin("public")
MIXED = Origin("mixed")


def merged_origin(origins: list[Origin]) -> Origin:
    """The origin of rows that are combined without a tenant column to keep them apart."""
    kinds = {o.kind for o in origins}
    if kinds & {"carried", "mixed"}:
        return MIXED
    tenants = {o for o in origins if o.kind == "pinned"}
    return MIXED if len(tenants) > 1 else next(iter(tenants), PUBLIC)


def origin_of(tree: Node, known: Mapping[str, Origin], names: frozenset[str]) -> Origin:
    """The origin of a query's output. `known` has the origins of the names that it may read.

    `names` are the columns and aliases of what the query reads: a qualifier that equals one of them could mean an
    element of that value instead of a table.
    """
    nodes = list(walk_all(tree))
    read = {str(n.get("name")) for n in nodes if n.get("type") in ("TableIdentifier", "Identifier")}
    if all(known.get(name, PUBLIC) == PUBLIC for name in read):
        return PUBLIC
    local = Counter(n["name"] for n in nodes if n.get("type") == "WithElement")
    if any(count > 1 or name in known for name, count in local.items()):
        # The engine resolves a WITH query where it is used, so a name with several meanings does not prove anything.
        return MIXED
    return _Tracer(names | names_of_values(tree), _renamed(nodes)).query(tree, known)


@dataclass(frozen=True, slots=True)
class _Table:
    """One table in FROM: the name that qualifies its columns, its origin, and how it is joined."""

    name: str
    origin: Origin
    join: Node
    renamed: bool
    """Whether a list of names after the table renames its columns."""


@dataclass(frozen=True, slots=True)
class _Tracer:
    """Derives the origins of the queries in one piece of SQL."""

    names: frozenset[str]
    """Names of values. A table of the same name cannot qualify a column reliably."""
    renamed: frozenset[str]
    """Names that the SQL gives to values other than the column with that name."""

    def query(self, node: Node, known: Mapping[str, Origin]) -> Origin:
        """The origin of the rows of a SELECT or a UNION."""
        if node.get("type") == "SelectQuery":
            return self._select(node, known)
        selects = node["list_of_selects"]["children"]
        # As in the engine, the WITH queries of the first SELECT are visible in the others.
        shared = self._with(selects[0], known) if len(selects) > 1 else known
        origins = [self.query(s, shared if n else known) for n, s in enumerate(selects)]
        return origins[0] if len(origins) == 1 else self._combined_origin(node, known, origins)

    def _select(self, node: Node, known: Mapping[str, Origin]) -> Origin:
        """The origin of the rows of one SELECT: pinned by a condition, carried with their tenant, or merged."""
        inner = self._with(node, known)
        tables = list(self._tables(node, inner))
        in_expressions = list(self._in_expressions(node, inner))
        carried = [t for t in tables if t.origin.kind == "carried"]
        others = [t.origin for t in tables if t.origin.kind != "carried"] + in_expressions
        if not carried:
            return merged_origin(others)
        pins = None if self._depends_on_other_rows(node, tables) else self._pins(node, tables)
        if pins is not None:
            return merged_origin([*pins, *others])
        return self._combined_origin(node, known, [*(t.origin for t in carried), *others])

    def _combined_origin(self, node: Node, known: Mapping[str, Origin], origins: list[Origin]) -> Origin:
        """The origin of combined rows: `carried` if the proof for per-tenant pipes shows that tenants stay apart."""
        carried = {o for o in origins if o.kind == "carried"}
        if len(carried) != 1 or any(o.kind not in ("carried", "public") for o in origins):
            return merged_origin(origins)
        origin = next(iter(carried))
        try:
            Lineage(origin.column, self.names).union(node, frozenset(n for n, o in known.items() if o == origin))
        except RookeryError:
            return MIXED
        return origin

    def _with(self, node: Node, known: Mapping[str, Origin]) -> Mapping[str, Origin]:
        """`known` with the WITH queries of a SELECT."""
        origins = dict(known)
        for item in flat_members(node.get("with")):
            if item.get("type") == "WithElement":
                origin = self.query(item["subquery"]["children"][0], origins)
                # A list of names renames columns by position, so the tenant column may have another name.
                origins[item["name"]] = MIXED if "aliases" in item and origin.kind == "carried" else origin
        return origins

    def _tables(self, node: Node, known: Mapping[str, Origin]) -> Iterator[_Table]:
        """The tables in FROM. A name that is not known holds no tenant's rows."""
        for element in flat_members(node.get("tables")):
            table = element.get("table_expression")
            if table is None:
                continue
            name, origin = "", PUBLIC
            if "database_and_table_name" in table:
                identifier = table["database_and_table_name"]
                name = identifier.get("alias") or identifier["name"]
                origin = known.get(identifier["name"], PUBLIC)
            elif "subquery" in table:
                name = table["subquery"].get("alias", "")
                origin = self.query(table["subquery"]["children"][0], known)
            yield _Table(name, origin, element.get("table_join") or {}, "column_aliases" in table)

    def _in_expressions(self, node: Node, known: Mapping[str, Origin]) -> Iterator[Origin]:
        """The origins of what a SELECT's expressions read, without tenant columns: one result serves all rows."""
        for inner in walk_select(node):
            if inner.get("type") == "Subquery":
                yield _without_tenant(self.query(inner["children"][0], known))
            if inner.get("type") == "Function" and str(inner.get("name", "")).lower() in MEMBERSHIP:
                right = flat_members(inner.get("arguments"))[-1]
                if right.get("type") == "Identifier":
                    yield _without_tenant(known.get(str(right.get("name")), PUBLIC))

    # --- pins: tables that WHERE restricts to one tenant ---

    def _depends_on_other_rows(self, node: Node, tables: list[_Table]) -> bool:
        """Whether a row's values may depend on rows that WHERE removes."""
        functions = (str(n.get("name", "")).lower() for n in walk_select(node) if n.get("type") == "Function")
        return any(f in ROW_ORDER_FUNCTIONS for f in functions) or not all(_row_by_row(t) for t in tables[1:])

    def _pins(self, node: Node, tables: list[_Table]) -> list[Origin] | None:
        """The tenants to which WHERE restricts the tables of many tenants; None if a table is not restricted."""
        conjuncts = [c for key in ("where", "prewhere") if key in node for c in _conjuncts(node[key])]
        tenants: dict[int, str] = {}
        for n, table in enumerate(tables):
            if table.origin.kind != "carried":
                continue
            tenant = None
            if not table.renamed and (n == 0 or _keeps_only_matches(table)):
                tenant = _pinned_tenant(conjuncts, table.origin, self._spellings(tables, n))
            if tenant is None and n and 0 in tenants and self._joined(tables, n):
                tenant = tenants[0]
            if tenant is None:
                return None
            tenants[n] = tenant
        return [Origin("pinned", tenant) for tenant in tenants.values()]

    def _spellings(self, tables: list[_Table], position: int) -> set[tuple[str, ...]]:
        """The identifiers that can only mean the tenant column of one table."""
        table = tables[position]
        column = table.origin.column
        spellings: set[tuple[str, ...]] = set()
        merged_column = position == 0 and all(self._joined(tables, n, using=True) for n in range(1, len(tables)))
        if merged_column and column not in self.renamed:
            spellings.add((column,))
        if table.name and table.name not in self.names and [t.name for t in tables].count(table.name) == 1:
            spellings.add((table.name, column))
        return spellings

    def _joined(self, tables: list[_Table], position: int, *, using: bool = False) -> bool:
        """Whether a table is joined to the first one in such a way that only rows of the same tenant are combined."""
        first, table = tables[0], tables[position]
        if first.origin != table.origin or table.renamed or position != 1:
            return False
        if using and not flat_members(table.join.get("using_expression_list")):
            return False
        if table.join.get("strictness") not in JOINS.get(str(table.join.get("kind")), ()):
            return False
        return Lineage(table.origin.column, self.names).within_tenant(table.join, first.name, table.name, True)


def _row_by_row(table: _Table) -> bool:
    """Whether a join's result for a left row depends only on that row."""
    kind = str(table.join.get("kind"))
    within = kind in ("CROSS", "COMMA") or table.join.get("strictness") in JOINS.get(kind, ())
    return within and not table.join.get("is_natural")


def _keeps_only_matches(table: _Table) -> bool:
    """Whether a join's result consists of exactly the matching pairs."""
    kind, strictness = str(table.join.get("kind")), table.join.get("strictness")
    return kind in ("CROSS", "COMMA") or (kind == "INNER" and strictness in (None, "ALL"))


def _without_tenant(origin: Origin) -> Origin:
    return MIXED if origin.kind == "carried" else origin


def _conjuncts(node: Node) -> list[Node]:
    if node.get("type") == "Function" and node.get("name") == "and":
        return [c for child in flat_members(node.get("arguments")) for c in _conjuncts(child)]
    return [node]


def _pinned_tenant(conjuncts: list[Node], origin: Origin, spellings: set[tuple[str, ...]]) -> str | None:
    """The tenant in a conjunct `tenant_column = literal` or `literal = tenant_column`."""
    for node in conjuncts:
        sides = flat_members(node.get("arguments")) if node.get("type") == "Function" else []
        if node.get("name") != "equals" or len(sides) != 2:
            continue
        for left, right in (sides, reversed(sides)):
            if (
                left.get("type") == "Identifier"
                and identifier_parts(left) in spellings
                and right.get("type") == "Literal"
            ):
                tenant = _tenant_of(right, origin.type)
                if tenant is not None:
                    return tenant
    return None


def _tenant_of(literal: Node, type: str) -> str | None:
    """The tenant id that a literal is; None if it cannot be one."""
    # 1.0 is not a tenant id, although it equals 1.
    value = literal["value"]
    written_as = value.get("field_type", "") if isinstance(value, Mapping) else ""
    if written_as != "String" and "Int" not in written_as:
        return None
    try:
        return canonical_tenant(base_type(type), value.get("value"))
    except RookeryError:
        return None


def _renamed(nodes: list[Node]) -> frozenset[str]:
    """Names that the SQL gives to values, except if a column keeps its own name."""
    names: set[str] = set()
    for node in nodes:
        keeps_name = node.get("type") == "Identifier" and identifier_parts(node) == (node.get("alias"),)
        if "alias" in node and not keeps_name and node.get("type") not in ("TableIdentifier", "Subquery"):
            names.add(str(node["alias"]))
        for key in ("column_aliases", "aliases"):
            names |= {str(n.get("name")) for n in flat_members(node.get(key))}
    return frozenset(names)
