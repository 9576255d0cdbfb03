"""Whose rows the output of a query holds, read off the engine's syntax tree.

A query over tenants' rows holds one tenant's only if every table of many tenants' rows in it is narrowed by `WHERE`
to the same tenant: by a conjunct that compares the table's own tenant column with a literal. Anything else is not
proved, and counts as rows of several tenants.

Aliases win over columns in the engine, so a bare name proves nothing in a text that gives it to another value. Some
joins and functions answer for a row from rows that WHERE removes afterwards; beside them a pin proves nothing either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from engine.errors import RookeryError
from engine.sql.checker import MEMBERSHIP
from engine.sql.tenant_lineage import ACROSS_ROWS, JOINS, Lineage, items, named, parts_of, walked
from engine.tenant_ids import base_type, canonical_tenant

Node = Mapping[str, Any]
Kind = Literal["public", "pinned", "carried", "mixed"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose rows something holds.

    `public`: no tenant's. `pinned`: those of one `tenant`, by its canonical id. `carried`: those of many, each with
    its tenant in `column`, which has `type`. `mixed`: those of several, without saying whose.
    """

    kind: Kind
    tenant: str = ""
    column: str = ""
    type: str = ""


PUBLIC = Origin("public")
MIXED = Origin("mixed")


def merged(origins: list[Origin]) -> Origin:
    """The origin of rows that come together where no tenant column keeps them apart."""
    kinds = {o.kind for o in origins}
    if kinds & {"carried", "mixed"}:
        return MIXED
    tenants = {o for o in origins if o.kind == "pinned"}
    return MIXED if len(tenants) > 1 else next(iter(tenants), PUBLIC)


def origin_of(tree: Node, known: Mapping[str, Origin], names: frozenset[str]) -> Origin:
    """The origin of a query's output, given the origins of the names that it may read.

    `names` are the columns and aliases of what it reads: a qualifier of that name could mean a part of them.
    """
    nodes = list(_everything(tree))
    read = {str(n.get("name")) for n in nodes if n.get("type") in ("TableIdentifier", "Identifier")}
    if all(known.get(name, PUBLIC) == PUBLIC for name in read):
        return PUBLIC
    local = Counter(n["name"] for n in nodes if n.get("type") == "WithElement")
    if any(count > 1 or name in known for name, count in local.items()):
        # The engine resolves a WITH query where it is used, so its name must mean one query in the whole text.
        return MIXED
    return _Tracer(names | named(tree), _renamed(nodes)).query(tree, known)


@dataclass(frozen=True, slots=True)
class _Table:
    """One table of a FROM: the name that qualifies its columns, its origin and its join."""

    name: str
    origin: Origin
    join: Node
    renamed: bool


@dataclass(frozen=True, slots=True)
class _Tracer:
    """`renamed` are the names that the text gives to values which are not the column of that name."""

    names: frozenset[str]
    renamed: frozenset[str]

    def query(self, node: Node, known: Mapping[str, Origin]) -> Origin:
        if node.get("type") == "SelectQuery":
            return self._select(node, known)
        selects = node["list_of_selects"]["children"]
        # WITH of the first SELECT reaches the others, as it does in the engine.
        shared = self._with(selects[0], known) if len(selects) > 1 else known
        found = [self.query(s, shared if n else known) for n, s in enumerate(selects)]
        return found[0] if len(found) == 1 else self._apart(node, known, found)

    def _select(self, node: Node, known: Mapping[str, Origin]) -> Origin:
        inner = self._with(node, known)
        tables = list(self._tables(node, inner))
        beside = list(self._in_expressions(node, inner))
        carried = [t for t in tables if t.origin.kind == "carried"]
        others = [t.origin for t in tables if t.origin.kind != "carried"] + beside
        if not carried:
            return merged(others)
        pins = None if self._across_rows(node, tables) else self._pins(node, tables)
        if pins is not None:
            return merged([*pins, *others])
        return self._apart(node, known, [*(t.origin for t in carried), *others])

    def _apart(self, node: Node, known: Mapping[str, Origin], found: list[Origin]) -> Origin:
        """The origin of rows that come together, which the proof for per-tenant pipes may show to be kept apart."""
        carried = {o for o in found if o.kind == "carried"}
        if len(carried) != 1 or any(o.kind not in ("carried", "public") for o in found):
            return merged(found)
        one = next(iter(carried))
        try:
            Lineage(one.column, self.names).union(node, frozenset(n for n, o in known.items() if o == one))
        except RookeryError:
            return MIXED
        return one

    def _with(self, node: Node, known: Mapping[str, Origin]) -> Mapping[str, Origin]:
        found = dict(known)
        for item in items(node.get("with")):
            if item.get("type") == "WithElement":
                origin = self.query(item["subquery"]["children"][0], found)
                found[item["name"]] = MIXED if "aliases" in item and origin.kind == "carried" else origin
        return found

    def _tables(self, node: Node, known: Mapping[str, Origin]) -> Iterator[_Table]:
        for element in items(node.get("tables")):
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
        """The origins of what the expressions of a SELECT read: they answer once for all rows."""
        for inner in walked(node):
            if inner.get("type") == "Subquery":
                yield _answer(self.query(inner["children"][0], known))
            if inner.get("type") == "Function" and str(inner.get("name", "")).lower() in MEMBERSHIP:
                right = items(inner.get("arguments"))[-1]
                if right.get("type") == "Identifier":
                    yield _answer(known.get(str(right.get("name")), PUBLIC))

    # --- pins ---

    def _across_rows(self, node: Node, tables: list[_Table]) -> bool:
        """Whether a row's values may come from rows that WHERE removes."""
        functions = (str(n.get("name", "")).lower() for n in walked(node) if n.get("type") == "Function")
        return any(f in ACROSS_ROWS for f in functions) or not all(_row_by_row(t) for t in tables[1:])

    def _pins(self, node: Node, tables: list[_Table]) -> list[Origin] | None:
        """The tenants to which the tables of many tenants' rows are narrowed; None if one of them is not."""
        conjuncts = [c for key in ("where", "prewhere") if key in node for c in _conjuncts(node[key])]
        found: dict[int, str] = {}
        for n, table in enumerate(tables):
            if table.origin.kind != "carried":
                continue
            pin = None
            if not table.renamed and (n == 0 or _every_match(table)):
                pin = _literal(conjuncts, table.origin, self._spellings(tables, n))
            if pin is None and n and 0 in found and self._joined(tables, n):
                pin = found[0]
            if pin is None:
                return None
            found[n] = pin
        return [Origin("pinned", tenant) for tenant in found.values()]

    def _spellings(self, tables: list[_Table], position: int) -> set[tuple[str, ...]]:
        """What surely means the tenant column of one table."""
        table = tables[position]
        column = table.origin.column
        found: set[tuple[str, ...]] = set()
        alone = position == 0 and all(self._joined(tables, n, using=True) for n in range(1, len(tables)))
        if alone and column not in self.renamed:
            found.add((column,))
        if table.name and table.name not in self.names and [t.name for t in tables].count(table.name) == 1:
            found.add((table.name, column))
        return found

    def _joined(self, tables: list[_Table], position: int, *, using: bool = False) -> bool:
        """Whether rows of a table only meet rows of the first one that have the same tenant."""
        first, table = tables[0], tables[position]
        if first.origin != table.origin or table.renamed or position != 1:
            return False
        if using and not items(table.join.get("using_expression_list")):
            return False
        if table.join.get("strictness") not in JOINS.get(str(table.join.get("kind")), ()):
            return False
        return Lineage(table.origin.column, self.names).within_tenant(table.join, first.name, table.name, True)


def _row_by_row(table: _Table) -> bool:
    """Whether a join answers for each row of its left side alone."""
    kind = str(table.join.get("kind"))
    within = kind in ("CROSS", "COMMA") or table.join.get("strictness") in JOINS.get(kind, ())
    return within and not table.join.get("is_natural")


def _every_match(table: _Table) -> bool:
    """Whether a join keeps all pairs that match, and nothing where none does."""
    kind, strictness = str(table.join.get("kind")), table.join.get("strictness")
    return kind in ("CROSS", "COMMA") or (kind == "INNER" and strictness in (None, "ALL"))


def _answer(origin: Origin) -> Origin:
    return MIXED if origin.kind == "carried" else origin


def _conjuncts(node: Node) -> list[Node]:
    if node.get("type") == "Function" and node.get("name") == "and":
        return [c for child in items(node.get("arguments")) for c in _conjuncts(child)]
    return [node]


def _literal(conjuncts: list[Node], origin: Origin, spellings: set[tuple[str, ...]]) -> str | None:
    """The tenant in a conjunct `tenant_column = literal`, either way round."""
    for node in conjuncts:
        sides = items(node.get("arguments")) if node.get("type") == "Function" else []
        if node.get("name") != "equals" or len(sides) != 2:
            continue
        for left, right in (sides, reversed(sides)):
            if left.get("type") == "Identifier" and parts_of(left) in spellings and right.get("type") == "Literal":
                tenant = _tenant(right, origin.type)
                if tenant is not None:
                    return tenant
    return None


def _tenant(literal: Node, type: str) -> str | None:
    # 1.0 is no tenant, although it equals 1.
    value = literal["value"]
    written_as = value.get("field_type", "") if isinstance(value, Mapping) else ""
    if written_as != "String" and "Int" not in written_as:
        return None
    try:
        return canonical_tenant(base_type(type), value.get("value"))
    except RookeryError:
        return None


def _renamed(nodes: list[Node]) -> frozenset[str]:
    """Names that are given to values, but for columns that keep their own."""
    found: set[str] = set()
    for node in nodes:
        kept = node.get("type") == "Identifier" and parts_of(node) == (node.get("alias"),)
        if "alias" in node and not kept and node.get("type") not in ("TableIdentifier", "Subquery"):
            found.add(str(node["alias"]))
        for key in ("column_aliases", "aliases"):
            found |= {str(n.get("name")) for n in items(node.get(key))}
    return frozenset(found)


def _everything(root: Any) -> Iterator[Node]:
    """Every node of a tree, what is inside of subqueries included."""
    pending: list[Any] = [root]
    while pending:
        current = pending.pop()
        if isinstance(current, Mapping):
            if "type" in current:
                yield current
            pending.extend(current.values())
        elif isinstance(current, list | tuple):
            pending.extend(current)
