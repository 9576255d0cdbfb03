"""Measures the extent of one piece of SQL. Each WITH query, SELECT and alias is measured once, not once per use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from math import prod

from engine.errors import TOO_COMPLEX, RookeryError
from engine.sql.constant_work import (
    NOTHING,
    WORK_PER_PART,
    Cost,
    Lengths,
    add_work,
    cost_of_call,
    cost_of_literal,
    longest,
)
from engine.sql.expanded_size import COLUMNS_SUFFIX, MAX_NUMBER, TABLE_PARTS, Extent, Sum, table_extent
from engine.sql.functions import MEMBERSHIP
from engine.sql.measured_select import (
    Measured,
    MeasuredSelect,
    Selects,
    add_parts,
    aliases_of,
    listed_columns,
    output_name,
)
from engine.sql.tree import Node, members

MAX_NESTING = 100
"""Maximum nesting of subqueries, and of aliases defined by other aliases."""
GROUPING_SET_PARTS = 20
"""The cost of a grouping set in addition to its keys, in parts."""

_CONSTRUCTORS = frozenset({"tuple", "map", "mapfromarrays", "arrayzip", "arrayzipunaligned", "tupleconcat", "array"})
"""Functions whose result contains the elements of all of their arguments."""
_SCALARS = frozenset(
    {"equals", "notequals", "less", "greater", "lessorequals", "greaterorequals", "and", "or", "not", "isnull"}
    | MEMBERSHIP
    | {"length", "count", "tostring", "has", "empty", "notempty", "isnotnull", "uniq", "uniqexact", "sum"}
)
"""Functions whose result is a single element, whatever their arguments."""


def extent(root: Node) -> Extent:
    """The extent of one use of a query. Raises RK4040 if aliases or subqueries are nested too deeply."""
    return _Measure().query(root, {}, ())


class _Measure:
    """Measures one piece of SQL. `_depth` counts the subqueries and aliases that are being measured."""

    def __init__(self) -> None:
        self._depth = 0

    def query(self, node: Node, tables: Mapping[str, Extent], selects: Selects) -> Extent:
        """The extent of a SELECT or a UNION. The WITH queries of the first SELECT are visible in the others."""
        if node.get("type") == "SelectQuery":
            return self._select(node, tables, selects)
        queries = members(node.get("list_of_selects"))
        shared, extents = tables, []
        for n, query in enumerate(queries):
            if n == 0 and len(queries) > 1 and query.get("type") == "SelectQuery":
                shared = self._with(query, tables, selects)
            extents.append(self.query(query, shared if n else tables, selects))
        return extents[0] if len(extents) == 1 else _union(extents)

    def _enter(self) -> None:
        """Count one more level of nesting. Raises RK4040 beyond MAX_NESTING, before Python's own stack ends."""
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise RookeryError(
                TOO_COMPLEX,
                f"subqueries and aliases are nested more than {MAX_NESTING} levels deep",
                hint="write expressions out, or divide the text into nodes",
            )

    def _with(self, node: Node, tables: Mapping[str, Extent], selects: Selects) -> Mapping[str, Extent]:
        """The WITH queries that a SELECT can read, including its own."""
        visible = dict(tables)
        for element in members(node.get("with")):
            if element.get("type") == "WithElement":
                inside = {**visible, element["name"]: table_extent(1)} if node.get("recursive_with") else visible
                visible[element["name"]] = self._subquery(element["subquery"], inside, selects)
        return visible

    def _subquery(self, subquery: Node, tables: Mapping[str, Extent], selects: Selects) -> Extent:
        self._enter()
        try:
            return self.query(subquery["children"][0], tables, selects)
        finally:
            self._depth -= 1

    def _select(self, node: Node, tables: Mapping[str, Extent], selects: Selects) -> Extent:
        """The extent of one SELECT."""
        with_aliases = aliases_of({"with": node.get("with")})
        select = MeasuredSelect(aliases_of(node), with_aliases, self._with(node, tables, selects))
        parts: Counter[str] = Counter({"": 1})
        self._add_tables(node, select, selects, parts)
        inside = (*selects, select)
        columns: Counter[str] = Counter()
        values: dict[str, int] = {}
        lengths: dict[str, Lengths] = {}
        passed: set[str] = set()
        for item in members(node.get("select")):
            measured = self._item(item, inside)
            number = measured.number
            add_parts(parts, measured.parts)
            add_parts(columns, select.width(item, number))
            if item["type"].endswith(("Asterisk", "Matcher")):
                values |= {n: max(v, number) for n, v in select.values.items()}
                lengths |= select.lengths
                passed |= select.bound
            elif number > 1:
                values[output_name(item)] = max(number, values.get(output_name(item), 1))
            if measured.cost.length:
                lengths[output_name(item)] = longest([measured.cost.length, lengths.get(output_name(item), {})])
        for key, child in node.items():
            if key not in ("select", "tables"):
                add_parts(parts, self._expression(child, inside).parts)
        parts[""] += _grouping(node)
        return Extent(parts, columns, values, lengths, frozenset(passed))

    def _item(self, item: Node, selects: Selects) -> Measured:
        """A SELECT item. Inside the item, its own alias means a column."""
        alias = str(item.get("alias", ""))
        select = selects[-1]
        return (
            self._alias(alias, select, selects)
            if select.aliases.get(alias) is item
            else self._expression(item, selects)
        )

    def _add_tables(self, node: Node, select: MeasuredSelect, selects: Selects, parts: Counter[str]) -> None:
        """Add the tables and joins of a SELECT. The engine plans each join together with those before it."""
        elements = members(node.get("tables"))
        columns: Counter[str] = Counter()
        for element in elements:
            table = element.get("table_expression") or {}
            extent, name = self._table(table, select, selects)
            add_parts(parts, extent.parts)
            add_parts(columns, extent.columns)
            select.add_table(name, extent)
        select.columns = columns
        joined = len(elements)
        parts[""] += 3 * joined * joined
        for element in elements:
            for key in ("table_join", "array_join"):
                add_parts(parts, self._expression(element.get(key), (*selects, select)).parts)

    def _table(self, table: Node, select: MeasuredSelect, selects: Selects) -> tuple[Extent, str]:
        """A table's extent, and the name by which its columns can be qualified."""
        source = table.get("database_and_table_name") or table.get("subquery") or table.get("table_function")
        if not isinstance(source, dict):
            return Extent(), ""
        name = str(source.get("alias") or source.get("name") or "")
        if "subquery" in table:
            return self._subquery(source, select.tables, selects), name
        if "table_function" in table:
            parts = self._expression(source.get("arguments"), selects).parts
            return Extent(Counter({"": TABLE_PARTS}) + Counter(parts), {"": 1}), name
        return self._named_table(str(source["name"]), select.tables), name

    @staticmethod
    def _named_table(name: str, tables: Mapping[str, Extent]) -> Extent:
        extent = tables.get(name)
        if extent is None:
            return Extent({"": 1, name: 1}, {name + COLUMNS_SUFFIX: 1}, passed=frozenset([name]))
        parts = Counter({"": 1})
        add_parts(parts, extent.parts)
        return replace(extent, parts=parts)

    def _expression(self, root: object, selects: Selects) -> Measured:
        """An expression or a list of them.

        Nodes are visited from the leaves up, without recursion, because expressions can be deeply nested.
        """
        order = _with_parents(root)
        parts: Counter[str] = Counter()
        below: list[list[tuple[Node, Measured]]] = [[] for _ in order]
        work: Counter[str] = Counter()
        measured = Measured({}, 1, NOTHING)
        arguments = _lambda_arguments(order)
        for at in range(len(order) - 1, -1, -1):
            node, parent = order[at]
            if node["type"] == "Identifier" and str(node.get("name", "")).partition(".")[0] in arguments[at]:
                measured = Measured({"": 1}, 1, NOTHING)
            else:
                measured = self._node(node, below[at], selects)
            # The engine plans a subquery of IN a second time, separately, to use it with indexes.
            twice = node["type"] == "Subquery" and parent >= 0 and _is_membership(order[parent][0])
            add_parts(parts, measured.parts, 1 + twice)
            if parent >= 0:
                below[parent].append((node, measured))
            else:
                add_work(work, measured.cost.work)
        # The work of a part in a lambda is multiplied on the way to the root, so it is counted there.
        add_parts(parts, work | {"": work[""] // WORK_PER_PART})
        # The loop ends with the root, or with the first node of a list.
        return Measured(parts, measured.number, replace(measured.cost, work=work))

    def _node(self, node: Node, children: list[tuple[Node, Measured]], selects: Selects) -> Measured:
        """A node with its own parts, given its child nodes."""
        kind, name = str(node.get("type", "")), str(node.get("name", "")).lower()
        below = [child.number for _, child in children]
        if kind == "Subquery":
            extent = self._subquery(node, selects[-1].tables if selects else {}, selects)
            lengths = longest([*extent.lengths.values()])
            return Measured(extent.parts, max(extent.values.values(), default=1), Cost(lengths))
        if kind == "Identifier":
            return self._identifier(str(node.get("name", "")), selects)
        if kind.endswith(("Asterisk", "Matcher")):
            return Measured(*listed_columns(node, below, selects), Cost(is_fixed=False))
        is_scalar = kind == "Function" and name in _SCALARS
        cost = _cost(node, [(argument, child.cost) for argument, child in children], is_scalar=is_scalar)
        if is_scalar:
            return Measured({"": 1, **self._membership(node, selects)}, 1, cost)
        number = max(below, default=1)
        if kind == "Function" and name in _CONSTRUCTORS:
            number = max(1, sum(below))
        elif kind == "Function" and any(a.get("is_lambda_function") for a in members(node.get("arguments"))):
            # The lambda's result, for each element that the lambda receives.
            number = prod(below)
        return Measured({"": 1}, min(number, MAX_NUMBER), cost)

    def _membership(self, node: Node, selects: Selects) -> Sum:
        """The parts that a table on the right of IN adds."""
        arguments = members(node.get("arguments"))
        if not selects or len(arguments) != 2 or arguments[1].get("type") != "Identifier":
            return {}
        name = str(arguments[1].get("name"))
        known = selects[-1].tables.get(name)
        return known.parts if known is not None else {name: 1}

    def _identifier(self, name: str, selects: Selects) -> Measured:
        """A name: an alias of an enclosing SELECT, or else a column."""
        for select in reversed(selects):
            # In a subquery, a name means a column of its tables, or an outer alias that WITH defines.
            known = (
                select.aliases if select is selects[-1] or not selects[-1].columns_by_table else select.with_aliases
            )
            alias = name if name in known else name.partition(".")[0]
            if alias in known and alias not in select.entered:
                return self._alias(alias, select, selects[: selects.index(select) + 1])
        column = name.rpartition(".")[2]
        number = max((select.values.get(column, 1) for select in selects), default=1)
        length = longest(select.length_of(column) for select in selects)
        return Measured({"": 1}, number, Cost(length, is_fixed="" in length))

    def _alias(self, alias: str, select: MeasuredSelect, selects: Selects) -> Measured:
        """The expression behind an alias, measured at its first use."""
        if alias not in select.measured:
            select.entered.add(alias)
            self._enter()
            try:
                select.measured[alias] = self._expression({**select.aliases[alias], "alias": None}, selects)
            finally:
                self._depth -= 1
                select.entered.discard(alias)
        return select.measured[alias]


def _union(extents: list[Extent]) -> Extent:
    """The extent of a UNION, INTERSECT or EXCEPT, given those of its branches."""
    parts: Counter[str] = Counter({"": len(extents)})
    for query_extent in extents:
        add_parts(parts, query_extent.parts)
    # UNION matches columns by position, so a column may have the largest value of any branch.
    widest = max((v for query_extent in extents for v in query_extent.values.values()), default=1)
    names = {n for query_extent in extents for n in query_extent.values}
    length = longest(v for query_extent in extents for v in query_extent.lengths.values())
    long_names = {n for query_extent in extents for n in query_extent.lengths}
    return Extent(
        parts,
        extents[0].columns if extents else {},
        dict.fromkeys(names, widest),
        dict.fromkeys(long_names, length),
        frozenset(n for query_extent in extents for n in query_extent.passed),
    )


def _with_parents(root: object) -> list[tuple[Node, int]]:
    """The nodes of an expression, each with the position of its parent in the list. Subqueries are not entered."""
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


def _cost(node: Node, below: list[tuple[Node, Cost]], *, is_scalar: bool) -> Cost:
    """The cost of a node that is neither a name nor a subquery."""
    kind = node.get("type")
    if kind == "Literal":
        return cost_of_literal(node)
    if kind == "Function" and not node.get("is_lambda_function"):
        return cost_of_call(node, below, is_scalar=is_scalar)
    work: Counter[str] = Counter()
    for _, cost in below:
        add_work(work, cost.work)
    return Cost(longest(cost.length for _, cost in below), work, all(cost.is_fixed for _, cost in below))


def _lambda_arguments(order: list[tuple[Node, int]]) -> list[frozenset[str]]:
    """For each node, the names that are arguments of the lambdas around it."""
    names: list[frozenset[str]] = []
    for node, parent in order:
        outer = names[parent] if parent >= 0 else frozenset[str]()
        if node.get("is_lambda_function"):
            arguments = members(node.get("arguments"))
            outer |= {str(a.get("name")) for a in members(arguments[0].get("arguments"))} if arguments else set()
        names.append(outer)
    return names


def _is_membership(node: Node) -> bool:
    return node.get("type") == "Function" and str(node.get("name", "")).lower() in MEMBERSHIP


def _grouping(select: Node) -> int:
    """The cost of a SELECT's grouping sets, in parts."""
    keys = members(select.get("group_by"))
    flat = sum(max(1, len(members(key))) if key.get("type") == "ExpressionList" else 1 for key in keys)
    sets = len(keys)
    if select.get("group_by_with_cube"):
        sets = 1 << min(flat, 40)
    elif not (select.get("group_by_with_rollup") or select.get("group_by_with_grouping_sets")):
        return 0
    return sets * (GROUPING_SET_PARTS + flat)
