"""Checks every node, name, function and table of a syntax tree against allow-lists.

Each handler of `_Checker` checks one type of node. Its docstring names the attack that it stops.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from engine.errors import TABLE_REFUSED, RookeryError, did_you_mean
from engine.sql.ambiguous_names import AmbiguousNames
from engine.sql.argument_bounds import has_limit, is_scan
from engine.sql.checked_tree import CheckedTree
from engine.sql.context import Context, local_names, only_table
from engine.sql.function_names import FunctionNames, refuse_bounded
from engine.sql.functions import (
    MEMBERSHIP,
    OPERATORS,
    check_arguments,
    is_allowed,
    is_lambda,
    is_niladic,
    takes_lambda,
    text_of,
)
from engine.sql.grammar import children, refuse, slot_types
from engine.sql.tree import Node, members


class UnknownTableError(RookeryError):
    """A name that is neither a WITH query nor bound by the caller's scope; the hint is a similar bound name."""

    def __init__(self, name: str, bound: Collection[str]) -> None:
        super().__init__(TABLE_REFUSED, f"no datasource, pipe or node `{name[:200]}`", hint=did_you_mean(name, bound))
        self.name = name


ROOT = frozenset({"SelectWithUnionQuery"})
TABLE_FUNCTIONS = frozenset(
    {"generate_series", "generateseries", "numbers", "numbers_mt", "sqlstandardvalues", "values", "zeros", "zeros_mt"}
)
"""Table functions that read only their arguments: no files, URLs, remote servers or system tables."""

_DECLARATION = re.compile(
    r"\b(DEFAULT|MATERIALIZED|ALIAS|EPHEMERAL|CODEC|TTL|COMMENT|AggregateFunction)\b", re.IGNORECASE
)


def check_tree(
    root: Node,
    *,
    bound: frozenset[str],
    placeholders: Mapping[str, str],
    engine_functions: Callable[[], frozenset[str]],
    generated: frozenset[str] = frozenset(),
) -> CheckedTree:
    """Check a tree that may read the tables in `bound`, and may not define these names.

    `placeholders` are the generated parameters with their types. `engine_functions` returns the names of the engine's
    functions; it is called only for an error message or an ambiguous name. `generated` are functions that are allowed
    in addition, in lower case, because the rewritten query calls them. Raises SQL_REFUSED, FUNCTION_REFUSED or
    TABLE_REFUSED.
    """
    return _Checker(bound, placeholders, engine_functions, generated).run(root)


class _Checker:
    """Checks one tree. Iterative, so that deep nesting cannot exhaust the stack."""

    def __init__(
        self,
        bound: frozenset[str],
        placeholders: Mapping[str, str],
        engine_functions: Callable[[], frozenset[str]],
        generated: frozenset[str],
    ) -> None:
        self._bound, self._placeholders = bound, placeholders
        self._functions = FunctionNames(engine_functions, generated)
        self._result = CheckedTree()
        self._pending: list[tuple[Node, frozenset[str], Context]] = []
        self._names = AmbiguousNames()
        self._selects = 0
        self._handlers: Mapping[str, Callable[[Node, list[tuple[str, Node]], Context], None]] = {
            "SelectWithUnionQuery": self._union,
            "SelectQuery": self._select,
            "TableExpression": self._table,
            "TableIdentifier": self._table_name,
            "Subquery": self._subquery,
            "Function": self._function,
            "Identifier": self._identifier,
            "QueryParameter": self._parameter,
            "ColumnsApplyTransformer": self._apply,
            "QualifiedAsterisk": self._qualified,
            "QualifiedColumnsListMatcher": self._qualified,
            "QualifiedColumnsRegexpMatcher": self._qualified,
        }

    def run(self, root: Node) -> CheckedTree:
        """Check every node from the root down, then the names that only the whole tree explains."""
        self._pending.append((root, ROOT, Context()))
        while self._pending:
            node, allowed, context = self._pending.pop()
            # `children` refuses unknown keys and types. So every node is either checked here or refused.
            child_nodes = list(children(node, allowed))
            if "alias" in node:
                self._alias(node, context)
            self._handlers.get(node["type"], self._descend)(node, child_nodes, context)
        for name, context in self._names.tables(self._bound):
            self._read(name, context)
        self._result.qualify = self._names.qualifiers()
        return self._result

    def _descend(self, node: Node, child_nodes: list[tuple[str, Node]], context: Context) -> None:
        """Check the children of a node that has no rule of its own."""
        for key, child in child_nodes:
            self._pending.append((child, slot_types(node, key), context))

    # --- queries and tables ---

    def _union(self, node: Node, child_nodes: list[tuple[str, Node]], context: Context) -> None:
        """Check a UNION. As in the engine, the WITH queries of the first SELECT are visible in the others.

        If the checker resolved names differently from the engine, a branch could read an unchecked table.
        """
        first = child_nodes[0][1] if child_nodes else node
        shared = replace(context, tables=context.tables | local_names(first))
        for n, (key, child) in enumerate(child_nodes):
            self._pending.append((child, slot_types(node, key), shared if n else context))

    def _select(self, node: Node, child_nodes: list[tuple[str, Node]], context: Context) -> None:
        """Give each part of a SELECT the names that are visible there.

        They must be the names that the engine sees; otherwise an unchecked table or function could pass as a local
        name. Aliases are not visible in FROM, and a WITH query is visible only after its definition.
        """
        if "prewhere" in node:
            self._result.prewheres.append(node)
        aliases = {c.get("alias") for k in ("select", "with") for c in members(node.get(k))}
        columns = frozenset(a for a in aliases if isinstance(a, str))
        self._selects += 1
        inside = replace(
            context, columns=frozenset(), only_table=only_table(node), item_alias=None, select_number=self._selects
        )
        for key, child in child_nodes:
            if key == "with" and child.get("type") == "WithElement":
                self._common_table(child, inside, recursive=bool(node.get("recursive_with")))
                # Only what follows sees this name. The query itself does not, unless it is recursive.
                inside = replace(inside, tables=inside.tables | {child["name"]})
        for key, child in child_nodes:
            if key in ("select", "with"):
                if child.get("type") != "WithElement":
                    self._pending.append(
                        (child, slot_types(node, key), replace(inside, item_alias=child.get("alias")))
                    )
            else:
                visible = inside if key == "tables" else replace(inside, columns=columns)
                self._pending.append((child, slot_types(node, key), visible))

    def _common_table(self, node: Node, context: Context, *, recursive: bool) -> None:
        """Refuse a WITH query that has the name of a relation and would replace it."""
        child_nodes = list(children(node, frozenset({"WithElement"})))
        name = node.get("name", "")
        if name in self._bound or "." in name:
            refuse(f"a WITH query named `{name}`", "choose a name that no datasource, pipe or node has")
        inside = replace(context, tables=context.tables | {name}) if recursive else context
        for key, child in child_nodes:
            self._pending.append((child, slot_types(node, key), inside))

    def _table(self, node: Node, child_nodes: list[tuple[str, Node]], context: Context) -> None:
        """Refuse a node with two sources, of which only one would be checked, and FINAL or SAMPLE on a subquery.

        FINAL and SAMPLE of a datasource are collected: they belong inside its relation, next to the tenant filter.
        """
        sources = [
            child for key, child in child_nodes if key in ("database_and_table_name", "subquery", "table_function")
        ]
        if len(sources) != 1:
            refuse("a table of several kinds")
        source = sources[0]
        if "." in str(source.get("alias", "")):
            refuse(f"the table alias `{source['alias']}`", "use a name without a dot")
        name = source.get("name") if source["type"] == "TableIdentifier" else None
        if node.get("final") or "sample_size" in node or "sample_offset" in node:
            if not isinstance(name, str) or name in context.tables or name not in self._bound:
                refuse("FINAL or SAMPLE on anything but a datasource", "put it on the datasource itself")
            self._result.hoistable.setdefault(name, []).append(node)
        for key, child in child_nodes:
            if key == "table_function":
                self._table_function(child, context)
            else:
                self._pending.append((child, slot_types(node, key), context))

    def _table_function(self, node: Node, context: Context) -> None:
        """Refuse table functions that read files, URLs, remote servers or other tables.

        In VALUES, refuse a structure with DEFAULT or ALIAS, whose expression would be unchecked SQL.
        """
        child_nodes = list(children(node, frozenset({"Function"})))
        name = str(node.get("name", ""))
        if name.lower() not in TABLE_FUNCTIONS:
            raise RookeryError(
                TABLE_REFUSED,
                f"table function `{name}` is not allowed",
                hint="only numbers, zeros, generate_series and VALUES can be used",
            )
        if "alias" in node:
            self._alias(node, context)
        arguments = members(node.get("arguments"))
        if arguments and _DECLARATION.search(text_of(arguments[0]) or ""):
            refuse("more than names and types in VALUES", "declare columns as `name Type`")
        for key, child in child_nodes:
            self._pending.append((child, slot_types(node, key), replace(context, in_table_function=True)))

    def _table_name(self, node: Node, child_nodes: list[tuple[str, Node]], context: Context) -> None:
        """Refuse a read of a table in any database, such as another tenant's nest or `system.tables`."""
        name = str(node.get("name", ""))
        if "name_parts" in node or "." in name:
            raise RookeryError(
                TABLE_REFUSED, f"no datasource, pipe or node `{name}`", hint="write the name without a database"
            )
        self._read(name, context)

    def _read(self, name: str, context: Context) -> None:
        """Refuse a read of a name that is neither a WITH query nor bound by the caller's scope."""
        if name in context.tables:
            return
        if name not in self._bound:
            raise UnknownTableError(name, self._bound)
        self._result.reads[name] += 1

    def _subquery(self, node: Node, child_nodes: list[tuple[str, Node]], context: Context) -> None:
        """Refuse a subquery in an argument of a table function, which the engine evaluates while it plans."""
        if context.in_table_function:
            refuse("a subquery as an argument of a table function", "use a literal or a parameter")
        if len(child_nodes) != 1:
            refuse("a subquery of several queries")
        self._descend(node, child_nodes, context)

    # --- expressions ---

    def _alias(self, node: Node, context: Context) -> None:
        """Refuse an alias that replaces a function in a relation's SQL, or that reads like a qualified column."""
        alias = node["alias"]
        if node["type"] == "Function" and is_lambda(node):
            refuse("a named lambda", "write the lambda where it is used")
        self._names.note_alias(alias, context)
        if node["type"] == "Subquery" and "." in alias:
            refuse(f"the alias `{alias}` of a subquery", "use a name without a dot")
        if alias.lower() in OPERATORS:
            refuse(f"the alias `{alias}`", "it is the name of an operator; choose another alias")

    def _identifier(self, node: Node, child_nodes: list[tuple[str, Node]], context: Context) -> None:
        """Refuse a call without parentheses: if no column has a bare name, the engine calls the function of that
        name.

        Whether an alias has the name is known only at the end of the walk.
        """
        name = str(node.get("name", ""))
        if "name_parts" not in node and is_niladic(name) and name not in context.columns:
            self._names.note_call(node, context)

    def _qualified(self, node: Node, child_nodes: list[tuple[str, Node]], context: Context) -> None:
        """Refuse a qualifier of `*` or COLUMNS that has its own nodes, which would not be checked."""
        self._descend(node, [(k, c) for k, c in child_nodes if k != "qualifier"], context)
        for key, child in child_nodes:
            if key == "qualifier":
                for _ in children(child, slot_types(node, key)):
                    refuse("this qualifier")

    def _parameter(self, node: Node, child_nodes: list[tuple[str, Node]], context: Context) -> None:
        """Refuse placeholders that the template did not generate, such as the tenant's, and identifiers."""
        name, declared = node.get("name", ""), str(node.get("param_type", ""))
        expected = self._placeholders.get(name)
        if (
            expected is None
            or "".join(expected.split()) != "".join(declared.split())
            or declared.strip() == "Identifier"
        ):
            refuse(f"the placeholder `{{{name}:{declared}}}`", "use a template parameter, as in `{{String(name)}}`")

    def _apply(self, node: Node, child_nodes: list[tuple[str, Node]], context: Context) -> None:
        """Refuse a call of a refused function by its name in `APPLY`, without a function node."""
        if "func_name" in node:
            self._functions.require_allowed(node["func_name"])
            refuse_bounded(node["func_name"])
            if takes_lambda(node["func_name"]):
                self._references(members(node.get("parameters")), context)
        self._descend(node, child_nodes, context)

    def _function(self, node: Node, child_nodes: list[tuple[str, Node]], context: Context) -> None:
        """Refuse functions that read outside their row, or that name a refused function or type in a string."""
        name = str(node.get("name", ""))
        arguments = members(node.get("arguments"))
        if is_lambda(node):
            self._lambda(node, arguments, context)
            return
        self._functions.require_allowed(name)
        lower = name.lower()
        if lower in MEMBERSHIP:
            self._membership(node, arguments, context)
            return
        if lower == "exists" and [a.get("type") for a in arguments] != ["Subquery"]:
            refuse("EXISTS of anything but a subquery")
        check_arguments(name, arguments)
        self._result.called.add(lower)
        if has_limit(lower, arguments):
            self._result.has_limits = True
            self._result.bounded.append(node)
        elif is_scan(lower, arguments):
            self._result.bounded.append(node)
        if takes_lambda(lower):
            self._references([*arguments, *members(node.get("parameters"))], context)
        self._descend(node, child_nodes, context)

    def _lambda(self, node: Node, arguments: list[Node], context: Context) -> None:
        """Refuse lambdas that are not written as `x -> …`, because a named lambda could replace a function in a
        tenant filter.
        """
        # Only what the parser makes of `x -> …`. Any other spelling of a lambda has an
        # additional key, or lacks the flag.
        plain = set(node) <= {"type", "name", "arguments", "is_operator", "is_lambda_function", "kind"}
        plain = plain and bool(node.get("is_lambda_function")) and node.get("name") == "lambda"
        parameters = arguments[0] if plain and len(arguments) == 2 else {}
        if parameters.get("name") != "tuple" or set(parameters) - {"type", "name", "arguments", "is_operator"}:
            refuse("`lambda` as a function", "write `x -> ...`")
        argument_names = [child for _, child in children(parameters, frozenset({"Function"}))]
        for parameter in argument_names:
            if list(children(parameter, frozenset({"Identifier"}))) or set(parameter) != {"type", "name"}:
                refuse("this argument of a lambda")
        inside = replace(context, columns=context.columns | {n["name"] for n in argument_names})
        self._pending.append((arguments[1], slot_types(node, "arguments"), inside))

    def _membership(self, node: Node, arguments: list[Node], context: Context) -> None:
        """Refuse a read of an unbound table by `IN name`, where a bare name means a table.

        The engine prefers an alias of that name. Whether there is one is known only at the end of the walk.
        """
        if len(arguments) != 2 or set(node) - {"type", "name", "arguments", "is_operator", "alias"}:
            refuse("IN of this form", "write `value IN (...)`")
        left, right = arguments
        kinds = slot_types(node, "arguments")
        self._pending.append((left, kinds, context))
        # A list, a tuple or a subquery on the right is an ordinary expression.
        if right.get("type") != "Identifier":
            self._pending.append((right, kinds, context))
            return
        for _ in children(right, frozenset({"Identifier"})):
            refuse("this right side of IN")
        if "name_parts" in right or "alias" in right:
            refuse(f"`{right['name']}` on the right of IN", "write has(array, value) for a column")
        self._names.note_membership(right["name"], context)

    def _references(self, arguments: list[Node], context: Context) -> None:
        """Refuse a call of a refused function by its bare name, as in `arrayMap(hostName, x)`."""
        for argument in arguments:
            name = (
                str(argument.get("name", ""))
                if argument.get("type") == "Identifier" and "name_parts" not in argument
                else ""
            )
            if name not in context.columns:
                refuse_bounded(name)
            harmless = not name or is_allowed(name) or is_niladic(name) or name in context.columns
            if not harmless and self._functions.exists(name):
                self._names.note_call(argument, context)
