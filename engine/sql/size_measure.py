"""The extent of one text: its tree is measured once for each WITH query, SELECT and alias, not once for each use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from engine.errors import TOO_COMPLEX, RookeryError
from engine.sql.checker import MEMBERSHIP
from engine.sql.expanded_size import CAP, COLUMNS, TABLE, Extent, Sum, table_extent
from engine.sql.grammar import Node, listed

DEEPEST = 100
"""Levels of subqueries, and of aliases that stand for others."""
GROUPING = 20
"""What a grouping set takes beside its keys, in parts."""

_CONSTRUCTORS = frozenset({"tuple", "map", "mapfromarrays", "arrayzip", "arrayzipunaligned", "tupleconcat", "array"})
"""Functions whose result has the values of all of their arguments."""
_SCALARS = frozenset(
    {"equals", "notequals", "less", "greater", "lessorequals", "greaterorequals", "and", "or", "not", "isnull"}
    | MEMBERSHIP
    | {"length", "count", "tostring", "has", "empty", "notempty", "isnotnull", "uniq", "uniqexact", "sum"}
)
"""Functions whose result has one value, whatever they take."""


def _add(found: Counter[str], more: Sum, times: int = 1) -> None:
    for name, number in more.items():
        found[name] = min(found[name] + times * number, CAP)


def extent(root: Node) -> Extent:
    """The extent of one use of a query. Raises RK4040 where names stand for each other in too many levels."""
    return _Measure().query(root, {}, ())


@dataclass(slots=True)
class _Select:
    """One SELECT: its aliases, the extents of those that were measured, and the tables that it reads."""

    aliases: dict[str, Node]
    given: dict[str, Node]
    tables: Mapping[str, Extent] = field(default_factory=dict)
    measured: dict[str, tuple[Sum, int]] = field(default_factory=dict)
    entered: set[str] = field(default_factory=set)
    columns: Sum = field(default_factory=dict)
    named: dict[str, Sum] = field(default_factory=dict)
    values: dict[str, int] = field(default_factory=dict)


_Around = tuple[_Select, ...]
"""The SELECTs around an expression, the innermost last."""


class _Measure:
    """Measures one text. WITH queries and aliases are measured once; using them adds what was found."""

    def __init__(self) -> None:
        self._depth = 0

    def query(self, node: Node, tables: Mapping[str, Extent], around: _Around) -> Extent:
        """The extent of a SELECT, or of several in a UNION; WITH of the first reaches the others."""
        if node.get("type") == "SelectQuery":
            return self._select(node, tables, around)
        members = listed(node.get("list_of_selects"))
        shared, found = tables, []
        for n, member in enumerate(members):
            if n == 0 and len(members) > 1 and member.get("type") == "SelectQuery":
                shared = self._with(member, tables, around)
            found.append(self.query(member, shared if n else tables, around))
        if len(found) == 1:
            return found[0]
        parts: Counter[str] = Counter({"": len(found)})
        for each in found:
            _add(parts, each.parts)
        widest = max((v for each in found for v in each.values.values()), default=1)
        names = {n for each in found for n in each.values}
        return Extent(parts, found[0].columns if found else {}, dict.fromkeys(names, widest))

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise RookeryError(
                TOO_COMPLEX,
                f"subqueries and aliases stand for each other in more than {DEEPEST} levels",
                hint="write expressions out, or divide the text into nodes",
            )

    def _with(self, node: Node, tables: Mapping[str, Extent], around: _Around) -> Mapping[str, Extent]:
        """The local tables that a SELECT can read, its own WITH queries among them."""
        found = dict(tables)
        for element in listed(node.get("with")):
            if element.get("type") == "WithElement":
                inside = {**found, element["name"]: table_extent(1)} if node.get("recursive_with") else found
                found[element["name"]] = self._content(element["subquery"], inside, around)
        return found

    def _content(self, subquery: Node, tables: Mapping[str, Extent], around: _Around) -> Extent:
        self._enter()
        try:
            return self.query(subquery["children"][0], tables, around)
        finally:
            self._depth -= 1

    def _select(self, node: Node, tables: Mapping[str, Extent], around: _Around) -> Extent:
        given = _aliases({"with": node.get("with")})
        own = _Select(_aliases(node), given, self._with(node, tables, around))
        parts: Counter[str] = Counter({"": 1})
        self._from(node, own, around, parts)
        inside = (*around, own)
        columns: Counter[str] = Counter()
        values: dict[str, int] = {}
        for item in listed(node.get("select")):
            more, number = self._item(item, inside)
            _add(parts, more)
            _add(columns, _width(item, own, number))
            if item["type"].endswith(("Asterisk", "Matcher")):
                values |= {n: max(v, number) for n, v in own.values.items()}
            elif number > 1:
                values[_name(item)] = max(number, values.get(_name(item), 1))
        for key, child in node.items():
            if key not in ("select", "tables"):
                _add(parts, self._expression(child, inside)[0])
        parts[""] += _grouping(node)
        return Extent(parts, columns, values)

    def _item(self, item: Node, around: _Around) -> tuple[Sum, int]:
        """An item of a SELECT; a name within it that is its own alias is a column."""
        alias = str(item.get("alias", ""))
        own = around[-1]
        return self._alias(alias, own, around) if own.aliases.get(alias) is item else self._expression(item, around)

    def _from(self, node: Node, own: _Select, around: _Around, parts: Counter[str]) -> None:
        """Add what a SELECT reads. Each join is planned together with those before it."""
        elements = listed(node.get("tables"))
        columns: Counter[str] = Counter()
        for element in elements:
            table = element.get("table_expression") or {}
            found, name = self._table(table, own, around)
            _add(parts, found.parts)
            _add(columns, found.columns)
            own.named[name] = found.columns
            for column, number in found.values.items():
                own.values[column] = max(number, own.values.get(column, 1))
        own.columns = columns
        joined = len(elements)
        parts[""] += 3 * joined * joined
        for element in elements:
            for key in ("table_join", "array_join"):
                _add(parts, self._expression(element.get(key), (*around, own))[0])

    def _table(self, table: Node, own: _Select, around: _Around) -> tuple[Extent, str]:
        """A table's extent, and the name by which its columns can be qualified."""
        source = table.get("database_and_table_name") or table.get("subquery") or table.get("table_function")
        if not isinstance(source, dict):
            return Extent(), ""
        name = str(source.get("alias") or source.get("name") or "")
        if "subquery" in table:
            return self._content(source, own.tables, around), name
        if "table_function" in table:
            parts, _ = self._expression(source.get("arguments"), around)
            return Extent(Counter({"": TABLE}) + Counter(parts), {"": 1}), name
        return self._named_table(str(source["name"]), own.tables), name

    @staticmethod
    def _named_table(name: str, tables: Mapping[str, Extent]) -> Extent:
        found = tables.get(name)
        if found is None:
            return Extent({"": 1, name: 1}, {name + COLUMNS: 1})
        parts = Counter({"": 1})
        _add(parts, found.parts)
        return Extent(parts, found.columns, found.values)

    def _expression(self, root: object, around: _Around) -> tuple[Sum, int]:
        """The parts of an expression, or of whatever holds some, and how many values its value has."""
        order = _flat(root)
        parts: Counter[str] = Counter()
        below: list[list[int]] = [[] for _ in order]
        number = 1
        for at in range(len(order) - 1, -1, -1):
            node, parent = order[at]
            more, number = self._node(node, below[at], around)
            # The engine also plans a subquery of IN by itself, for the indexes.
            twice = node["type"] == "Subquery" and parent >= 0 and _is_membership(order[parent][0])
            _add(parts, more, 1 + twice)
            if parent >= 0:
                below[parent].append(number)
        return parts, number

    def _node(self, node: Node, below: list[int], around: _Around) -> tuple[Sum, int]:
        """One node's own parts, and how many values it has when those below it have so many."""
        kind, name = str(node.get("type", "")), str(node.get("name", "")).lower()
        if kind == "Subquery":
            found = self._content(node, around[-1].tables if around else {}, around)
            return found.parts, max(found.values.values(), default=1)
        if kind == "Identifier":
            return self._identifier(str(node.get("name", "")), around)
        if kind.endswith(("Asterisk", "Matcher")):
            return _listed_columns(node, below, around)
        if kind == "Function" and name in _SCALARS:
            return {"": 1, **self._membership(node, around)}, 1
        number = max(below, default=1)
        if kind == "Function" and name in _CONSTRUCTORS:
            number = max(1, sum(below))
        elif kind == "Function" and any(a.get("is_lambda_function") for a in listed(node.get("arguments"))):
            # What the lambda makes, of each value that it takes.
            number = prod(below)
        return {"": 1}, min(number, CAP)

    def _membership(self, node: Node, around: _Around) -> Sum:
        """What a table on the right of IN adds."""
        arguments = listed(node.get("arguments"))
        if not around or len(arguments) != 2 or arguments[1].get("type") != "Identifier":
            return {}
        name = str(arguments[1].get("name"))
        known = around[-1].tables.get(name)
        return known.parts if known is not None else {name: 1}

    def _identifier(self, name: str, around: _Around) -> tuple[Sum, int]:
        """What a name stands for: an alias of the SELECTs around it, or else a column."""
        for own in reversed(around):
            # Within a subquery, a name is a column of its tables, or else an alias around it that WITH gives.
            known = own.aliases if own is around[-1] or not around[-1].named else own.given
            alias = name if name in known else name.partition(".")[0]
            if alias in known and alias not in own.entered:
                return self._alias(alias, own, around[: around.index(own) + 1])
        column = name.rpartition(".")[2]
        return {"": 1}, max((own.values.get(column, 1) for own in around), default=1)

    def _alias(self, alias: str, own: _Select, around: _Around) -> tuple[Sum, int]:
        if alias not in own.measured:
            own.entered.add(alias)
            self._enter()
            try:
                own.measured[alias] = self._expression({**own.aliases[alias], "alias": None}, around)
            finally:
                self._depth -= 1
                own.entered.discard(alias)
        return own.measured[alias]


def _aliases(select: Node) -> dict[str, Node]:
    """What the aliases of a SELECT stand for, but for those of its tables and subqueries."""
    found: dict[str, Node] = {}
    pending: list[object] = [{k: v for k, v in select.items() if k != "tables"}]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending.extend(node)
        elif isinstance(node, dict) and node.get("type") != "WithElement":
            if isinstance(node.get("alias"), str):
                found.setdefault(node["alias"], node)
            if node.get("type") != "Subquery":
                pending.extend(node.values())
    return found


def _flat(root: object) -> list[tuple[Node, int]]:
    """The nodes of an expression, each with the position of the one above it. Subqueries are not entered."""
    order: list[tuple[Node, int]] = []
    pending: list[tuple[object, int]] = [(root, -1)]
    while pending:
        node, parent = pending.pop()
        if isinstance(node, list):
            pending.extend((child, parent) for child in node)
        elif isinstance(node, dict) and node.get("type") != "WithElement":
            kind = node.get("type", "ExpressionList")
            if kind != "ExpressionList":
                order.append((node, parent))
                parent = len(order) - 1
            if kind not in ("Subquery", "Literal"):
                pending.extend((child, parent) for child in node.values())
    return order


def _is_membership(node: Node) -> bool:
    return node.get("type") == "Function" and str(node.get("name", "")).lower() in MEMBERSHIP


def _listed_columns(node: Node, below: list[int], around: _Around) -> tuple[Sum, int]:
    """A star or a matcher: all columns, once more for each transformer."""
    copies = 1 + len(listed(node.get("transformers")))
    parts: Counter[str] = Counter({"": copies})
    if around:
        # Transformers are calls of each other: what they take grows with the square of their number.
        _add(parts, _width(node, around[-1], 1), copies * (1 + copies // 8))
    widest = max(around[-1].values.values(), default=1) if around else 1
    return parts, min(CAP, widest * prod(below))


def _width(item: Node, own: _Select, number: int) -> Sum:
    """How many columns an item of a SELECT is."""
    kind = str(item.get("type", ""))
    if kind.startswith("Qualified"):
        name = str((item.get("qualifier") or {}).get("name", ""))
        return own.named.get(name, own.columns)
    if kind.endswith(("Asterisk", "Matcher")):
        return own.columns
    return {"": number if str(item.get("name", "")).lower() == "untuple" else 1}


def _name(item: Node) -> str:
    return str(item.get("alias") or str(item.get("name", "")).rpartition(".")[2])


def _grouping(select: Node) -> int:
    """What a SELECT's grouping sets take."""
    keys = listed(select.get("group_by"))
    flat = sum(max(1, len(listed(key))) if key.get("type") == "ExpressionList" else 1 for key in keys)
    sets = len(keys)
    if select.get("group_by_with_cube"):
        sets = 1 << min(flat, 40)
    elif not (select.get("group_by_with_rollup") or select.get("group_by_with_grouping_sets")):
        return 0
    return sets * (GROUPING + flat)
