"""The walk over a syntax tree: every node, name, function and table of an author's text is judged here."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from engine.errors import FUNCTION_REFUSED, TABLE_REFUSED, RookeryError
from engine.sql.argument_bounds import BOUNDED
from engine.sql.functions import check_arguments, is_allowed, is_niladic, takes_lambda, text_of
from engine.sql.grammar import Node, children, listed, refuse, slot_types

ROOT = frozenset({"SelectWithUnionQuery"})
TABLE_FUNCTIONS = frozenset(
    {"generate_series", "generateseries", "numbers", "numbers_mt", "sqlstandardvalues", "values", "zeros", "zeros_mt"}
)
"""Table functions that read nothing but their arguments."""

MEMBERSHIP = frozenset(f"{g}{n}{u}in" for g in ("", "global") for n in ("", "not") for u in ("", "null"))
OPERATORS = MEMBERSHIP | {
    "and", "array", "cast", "equals", "greater", "greaterorequals", "ilike", "less", "lessorequals", "like", "not",
    "notequals", "notilike", "notlike", "or", "tostring", "tuple", "throwif", "tolowcardinality", "arrayreduce",
    "arrayelement",
}  # fmt: skip
"""Functions that relations are made of; nothing in an author's text may carry their names."""

_DECLARATION = re.compile(
    r"\b(DEFAULT|MATERIALIZED|ALIAS|EPHEMERAL|CODEC|TTL|COMMENT|AggregateFunction)\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class _Around:
    """What surrounds a node.

    `tables` are the local table names, `columns` the names that surely mean an alias or a lambda's argument, `only`
    the one table that columns can be qualified by, `item` the alias of the select item around the node, `scope` the
    number of the SELECT; `constant` holds in arguments of table functions.
    """

    tables: frozenset[str] = frozenset()
    columns: frozenset[str] = frozenset()
    only: str | None = None
    item: str | None = None
    scope: int = 0
    constant: bool = False


@dataclass(slots=True)
class Text:
    """What a walk found. `reads` counts the places that read a bound name; `hoistable` are table expressions with
    FINAL or SAMPLE by name, `prewheres` SELECTs with PREWHERE, `qualify` identifiers to be qualified by a table."""

    reads: Counter[str] = field(default_factory=Counter)
    hoistable: dict[str, list[Node]] = field(default_factory=dict)
    prewheres: list[Node] = field(default_factory=list)
    qualify: list[tuple[Node, str]] = field(default_factory=list)
    bounded: list[Node] = field(default_factory=list)
    """Calls whose arguments are to be bounded."""


def walk(
    root: Node,
    *,
    bound: frozenset[str],
    reserved: frozenset[str],
    placeholders: Mapping[str, str],
    known: Callable[[], frozenset[str]],
) -> Text:
    """Judge a tree; `known` gives the engine's functions. Raises SQL_REFUSED, FUNCTION_REFUSED or TABLE_REFUSED."""
    return _Walk(bound, reserved, placeholders, known).run(root)


class _Walk:
    """One walk: iterative, so that no depth of nesting exhausts the stack."""

    def __init__(
        self,
        bound: frozenset[str],
        reserved: frozenset[str],
        placeholders: Mapping[str, str],
        known: Callable[[], frozenset[str]],
    ) -> None:
        self._bound, self._reserved, self._placeholders, self._known = bound, reserved, placeholders, known
        self._text = Text()
        self._pending: list[tuple[Node, frozenset[str], _Around]] = []
        self._memberships: list[tuple[str, _Around]] = []
        self._unclear: list[tuple[Node, _Around]] = []
        self._aliases: Counter[tuple[int, str]] = Counter()
        self._scopes = 0
        self._functions: frozenset[str] | None = None
        self._special: Mapping[str, Callable[[Node, list[tuple[str, Node]], _Around], None]] = {
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

    def run(self, root: Node) -> Text:
        self._pending.append((root, ROOT, _Around()))
        while self._pending:
            node, allowed, around = self._pending.pop()
            below = list(children(node, allowed))
            if "alias" in node:
                self._alias(node, around)
            self._special.get(node["type"], self._ordinary)(node, below, around)
        aliases = {alias for _, alias in self._aliases}
        for name, around in self._memberships:
            if name not in aliases or name in self._reserved:
                self._read(name, around)
        for node, around in self._unclear:
            self._make_column(node, around)
        return self._text

    def _ordinary(self, node: Node, below: list[tuple[str, Node]], around: _Around) -> None:
        for key, child in below:
            self._pending.append((child, slot_types(node, key), around))

    # --- queries and tables ---

    def _union(self, node: Node, below: list[tuple[str, Node]], around: _Around) -> None:
        """WITH of the first SELECT reaches the others, as it does in the engine."""
        first = below[0][1] if below else node
        shared = replace(around, tables=around.tables | _local_names(first))
        for n, (key, child) in enumerate(below):
            self._pending.append((child, slot_types(node, key), shared if n else around))

    def _select(self, node: Node, below: list[tuple[str, Node]], around: _Around) -> None:
        if "prewhere" in node:
            self._text.prewheres.append(node)
        aliases = {c.get("alias") for k in ("select", "with") for c in listed(node.get(k))}
        columns = frozenset(a for a in aliases if isinstance(a, str))
        self._scopes += 1
        inside = replace(around, columns=frozenset(), only=_only_table(node), item=None, scope=self._scopes)
        for key, child in below:
            if key == "with" and child.get("type") == "WithElement":
                self._common_table(child, inside, recursive=bool(node.get("recursive_with")))
                inside = replace(inside, tables=inside.tables | {child["name"]})
        for key, child in below:
            if key in ("select", "with"):
                if child.get("type") != "WithElement":
                    self._pending.append((child, slot_types(node, key), replace(inside, item=child.get("alias"))))
            else:
                seen = inside if key == "tables" else replace(inside, columns=columns)
                self._pending.append((child, slot_types(node, key), seen))

    def _common_table(self, node: Node, around: _Around, *, recursive: bool) -> None:
        below = list(children(node, frozenset({"WithElement"})))
        name = node.get("name", "")
        if name in self._reserved or "." in name:
            refuse(f"a WITH query named `{name}`", "that name is taken; choose another")
        inside = replace(around, tables=around.tables | {name}) if recursive else around
        for key, child in below:
            self._pending.append((child, slot_types(node, key), inside))

    def _table(self, node: Node, below: list[tuple[str, Node]], around: _Around) -> None:
        sources = [child for key, child in below if key in ("database_and_table_name", "subquery", "table_function")]
        if len(sources) != 1:
            refuse("a table of several kinds")
        source = sources[0]
        if "." in str(source.get("alias", "")):
            refuse(f"the table alias `{source['alias']}`", "use a name without a dot")
        name = source.get("name") if source["type"] == "TableIdentifier" else None
        if node.get("final") or "sample_size" in node or "sample_offset" in node:
            if not isinstance(name, str) or name in around.tables or name not in self._bound:
                refuse("FINAL or SAMPLE on anything but a datasource", "put it on the datasource itself")
            self._text.hoistable.setdefault(name, []).append(node)
        for key, child in below:
            if key == "table_function":
                self._table_function(child, around)
            else:
                self._pending.append((child, slot_types(node, key), around))

    def _table_function(self, node: Node, around: _Around) -> None:
        below = list(children(node, frozenset({"Function"})))
        name = str(node.get("name", ""))
        if name.lower() not in TABLE_FUNCTIONS:
            raise RookeryError(
                TABLE_REFUSED,
                f"table function `{name}` is not allowed",
                hint="only numbers, zeros, generate_series and VALUES can be used",
            )
        if "alias" in node:
            self._alias(node, around)
        arguments = listed(node.get("arguments"))
        if arguments and _DECLARATION.search(text_of(arguments[0]) or ""):
            refuse("more than names and types in VALUES", "declare columns as `name Type`")
        for key, child in below:
            self._pending.append((child, slot_types(node, key), replace(around, constant=True)))

    def _table_name(self, node: Node, below: list[tuple[str, Node]], around: _Around) -> None:
        name = str(node.get("name", ""))
        if "name_parts" in node or "." in name:
            raise RookeryError(
                TABLE_REFUSED, f"no datasource, pipe or node `{name}`", hint="names of databases cannot be written"
            )
        self._read(name, around)

    def _read(self, name: str, around: _Around) -> None:
        if name in around.tables:
            return
        if name not in self._bound:
            near = difflib.get_close_matches(name, self._bound, n=1)
            hint = f"did you mean `{near[0]}`?" if near else None
            raise RookeryError(TABLE_REFUSED, f"no datasource, pipe or node `{name}`", hint=hint)
        self._text.reads[name] += 1

    def _subquery(self, node: Node, below: list[tuple[str, Node]], around: _Around) -> None:
        if around.constant:
            refuse("a subquery as an argument of a table function", "use a literal or a parameter")
        if len(below) != 1:
            refuse("a subquery of several queries")
        self._ordinary(node, below, around)

    # --- expressions ---

    def _alias(self, node: Node, around: _Around) -> None:
        alias = node["alias"]
        if node["type"] == "Function" and _is_lambda(node):
            refuse("a named lambda", "write the lambda where it is used")
        self._aliases[around.scope, alias] += 1
        if node["type"] == "Subquery" and "." in alias:
            refuse(f"the alias `{alias}` of a subquery", "use a name without a dot")
        if alias.lower() in OPERATORS:
            refuse(f"the alias `{alias}`", "it is the name of an operator; choose another")

    def _identifier(self, node: Node, below: list[tuple[str, Node]], around: _Around) -> None:
        name = str(node.get("name", ""))
        if "name_parts" not in node and is_niladic(name) and name not in around.columns:
            self._unclear.append((node, around))

    def _make_column(self, node: Node, around: _Around) -> None:
        """A bare name that may mean a refused function is qualified by the only table, so that it means a column.

        Where it may also mean an alias, only the author can say which.
        """
        name = node["name"]
        others = self._aliases[around.scope, name] - (around.item == name)
        if around.only is None or others:
            raise RookeryError(
                FUNCTION_REFUSED,
                f"`{name}` may mean a function that is not allowed",
                hint=f"qualify the column, as in `events.{name}`, or choose another alias",
            )
        if all(node is not n for n, _ in self._text.qualify):
            self._text.qualify.append((node, around.only))

    def _qualified(self, node: Node, below: list[tuple[str, Node]], around: _Around) -> None:
        self._ordinary(node, [(k, c) for k, c in below if k != "qualifier"], around)
        for key, child in below:
            if key == "qualifier":
                for _ in children(child, slot_types(node, key)):
                    refuse("this qualifier")

    def _parameter(self, node: Node, below: list[tuple[str, Node]], around: _Around) -> None:
        name, given = node.get("name", ""), str(node.get("param_type", ""))
        expected = self._placeholders.get(name)
        if expected is None or "".join(expected.split()) != "".join(given.split()) or given.strip() == "Identifier":
            refuse(f"the placeholder `{{{name}:{given}}}`", "use a template parameter, as in `{{String(name)}}`")

    def _apply(self, node: Node, below: list[tuple[str, Node]], around: _Around) -> None:
        if "func_name" in node:
            self._callable(node["func_name"])
            _refuse_bounded(node["func_name"])
            if takes_lambda(node["func_name"]):
                self._references(listed(node.get("parameters")), around)
        self._ordinary(node, below, around)

    def _function(self, node: Node, below: list[tuple[str, Node]], around: _Around) -> None:
        name = str(node.get("name", ""))
        arguments = listed(node.get("arguments"))
        if _is_lambda(node):
            self._lambda(node, arguments, around)
            return
        self._callable(name)
        lower = name.lower()
        if lower in MEMBERSHIP:
            self._membership(node, arguments, around)
            return
        if lower == "exists" and [a.get("type") for a in arguments] != ["Subquery"]:
            refuse("EXISTS of anything but a subquery")
        check_arguments(name, arguments)
        if lower in BOUNDED:
            self._text.bounded.append(node)
        if takes_lambda(lower):
            self._references([*arguments, *listed(node.get("parameters"))], around)
        self._ordinary(node, below, around)

    def _lambda(self, node: Node, arguments: list[Node], around: _Around) -> None:
        """A lambda where it is used. A named one could stand in for the functions of our own filters."""
        plain = set(node) <= {"type", "name", "arguments", "is_operator", "is_lambda_function", "kind"}
        plain = plain and bool(node.get("is_lambda_function")) and node.get("name") == "lambda"
        taken = arguments[0] if plain and len(arguments) == 2 else {}
        if taken.get("name") != "tuple" or set(taken) - {"type", "name", "arguments", "is_operator"}:
            refuse("`lambda` as a function", "write `x -> ...`")
        names = [child for _, child in children(taken, frozenset({"Function"}))]
        for item in names:
            if list(children(item, frozenset({"Identifier"}))) or set(item) != {"type", "name"}:
                refuse("this argument of a lambda")
        inside = replace(around, columns=around.columns | {n["name"] for n in names})
        self._pending.append((arguments[1], slot_types(node, "arguments"), inside))

    def _callable(self, name: str) -> None:
        if not is_allowed(name):
            exists = self._is_function(name)
            raise RookeryError(
                FUNCTION_REFUSED,
                f"function `{name}` is not allowed" if exists else f"no function `{name}`",
                hint="only functions of a row's own values can be used" if exists else None,
            )

    def _is_function(self, name: str) -> bool:
        """Whether the engine has a function of this name in some case."""
        if self._functions is None:
            # Asking the engine takes some milliseconds, and a text may have thousands of names.
            self._functions = frozenset(k.lower() for k in self._known())
        return name.lower() in self._functions

    def _membership(self, node: Node, arguments: list[Node], around: _Around) -> None:
        """IN: its right side may be a table, which a bare name must then be allowed to read."""
        if len(arguments) != 2 or set(node) - {"type", "name", "arguments", "is_operator", "alias"}:
            refuse("IN of this form", "write `value IN (...)`")
        left, right = arguments
        kinds = slot_types(node, "arguments")
        self._pending.append((left, kinds, around))
        if right.get("type") != "Identifier":
            self._pending.append((right, kinds, around))
            return
        for _ in children(right, frozenset({"Identifier"})):
            refuse("this right side of IN")
        if "name_parts" in right or "alias" in right:
            refuse(f"`{right['name']}` on the right of IN", "write has(array, value) for a column")
        self._memberships.append((right["name"], around))

    def _references(self, arguments: list[Node], around: _Around) -> None:
        """Bare names among the arguments of a function that takes lambdas may mean functions."""
        for item in arguments:
            name = str(item.get("name", "")) if item.get("type") == "Identifier" and "name_parts" not in item else ""
            if name not in around.columns:
                _refuse_bounded(name)
            judged = not name or is_allowed(name) or is_niladic(name) or name in around.columns
            if not judged and self._is_function(name):
                self._unclear.append((item, around))


def _refuse_bounded(name: str) -> None:
    """Refuse a function by its name alone: it has no arguments there that could be bounded."""
    if name.lower() in BOUNDED:
        refuse(f"`{name}` without its arguments", f"write a lambda, as in `x -> {name}(x, ...)`")


def _is_lambda(node: Node) -> bool:
    """Whether the engine takes a function node for a lambda, however it is spelled."""
    flagged = bool(node.get("is_lambda_function")) or node.get("kind") == "LAMBDA_FUNCTION"
    return flagged or str(node.get("name", "")).lower() == "lambda"


def _local_names(select: Node) -> frozenset[str]:
    elements = listed(select.get("with")) if select.get("type") == "SelectQuery" else []
    return frozenset(e["name"] for e in elements if e.get("type") == "WithElement" and isinstance(e.get("name"), str))


def _only_table(select: Node) -> str | None:
    """The name by which columns can be qualified where a SELECT reads one table and nothing else; else None."""
    elements = listed(select.get("tables"))
    if len(elements) != 1 or not isinstance(elements[0].get("table_expression"), dict):
        return None
    table = elements[0]["table_expression"]
    for key in ("database_and_table_name", "subquery"):
        source = table.get(key)
        if isinstance(source, dict):
            name = source.get("alias", source.get("name") if key == "database_and_table_name" else None)
            return name if isinstance(name, str) else None
    return None
