"""The allow-list of functions that authors' SQL may call, and checks of arguments that name functions or types.

The list itself is `functions.txt`, next to this module.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from engine.errors import FUNCTION_REFUSED, RookeryError
from engine.sql.grammar import refuse
from engine.sql.tree import Node, members, walk_all

MEMBERSHIP = frozenset(f"{g}{n}{u}in" for g in ("", "global") for n in ("", "not") for u in ("", "null"))
"""The operators IN and NOT IN as functions, in lower case."""
OPERATORS = MEMBERSHIP | {
    "and", "array", "cast", "equals", "greater", "greaterorequals", "ilike", "less", "lessorequals", "like", "not",
    "notequals", "notilike", "notlike", "or", "tostring", "tuple", "throwif", "tolowcardinality", "arrayreduce",
    "arrayelement",
}  # fmt: skip
"""Functions in the SQL of relations. An alias of the same name could replace one of them in a tenant filter."""

COMBINATORS = (
    "simplestate", "mergestate", "ordefault", "distinct", "resample", "foreach", "ornull", "argmin", "argmax",
    "array", "state", "merge", "map", "if",
)  # fmt: skip

WITHDRAWN = frozenset({"generatesnowflakeid"})
"""Functions that earlier versions allowed, in lower case. Files that were deployed then may still call them."""

MAX_COMBINATORS = 6
"""Maximum number of combinators in a name. Useful queries do not have more, and each one multiplies the names to look
up.
"""

NAMED_AGGREGATE = frozenset({"arrayreduce", "arrayreduceinranges", "initializeaggregation"})
TYPE_ARGUMENT = {
    "cast": 1, "accuratecast": 1, "accuratecastornull": 1, "accuratecastordefault": 1,
    "reinterpret": 1, "defaultvalueoftypename": 0,
}  # fmt: skip
"""Functions that take a type as a string → the position of that argument. The type must be a literal without
aggregate states, because reading states made of arbitrary bytes is unsafe in the engine.
"""

_EXTRACTING = frozenset(
    f"jsonextract{what}{case}" for what in ("", "keysandvalues") for case in ("", "caseinsensitive")
)
"""Functions whose last argument is a type, in lower case."""
_PARSED_TYPE = re.compile(r"\b(JSON|Object|Dynamic)\b", re.IGNORECASE)
"""Types whose values the engine makes from the text of JSON."""
_AGGREGATE = re.compile(r"([A-Za-z_0-9]++)\s*+(?:\(([\w\s.,'+-]*)\))?")
_STATE = re.compile(r"(?<!Simple)AggregateFunction", re.IGNORECASE)


@cache
def sections() -> Mapping[str, frozenset[str]]:
    """Section of `functions.txt` → the names in it, in lower case."""
    lists: dict[str, set[str]] = {}
    section: set[str] = set()
    for line in files(__package__).joinpath("functions.txt").read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("[") and text.endswith("]"):
            section = lists.setdefault(text[1:-1], set())
        elif text and not text.startswith("#"):
            section.add(text.lower())
    return MappingProxyType({name: frozenset(names) for name, names in lists.items()})


def is_aggregate(name: str) -> bool:
    """Whether a name is an allowed aggregate function, with or without combinators."""
    aggregates = sections()["aggregate"]
    candidates = {name.lower()}
    for _ in range(MAX_COMBINATORS):
        if candidates & aggregates:
            return True
        # A name can end with several combinators, and one combinator with another, so all ways to read it are
        # followed.
        candidates = {c.removesuffix(s) for c in candidates for s in COMBINATORS if c.endswith(s)}
    return bool(candidates & aggregates)


def is_allowed(name: str) -> bool:
    """Whether author SQL may call a function of this name, in any case."""
    lists = sections()
    return name.lower() in lists["plain"] or name.lower() in lists["lambda"] or is_aggregate(name)


def takes_lambda(name: str) -> bool:
    """Whether the function takes lambdas, so that a bare name among its arguments may mean a function."""
    return name.lower() in sections()["lambda"]


def is_niladic(name: str) -> bool:
    """Whether the engine calls a refused function for this bare name if no column has the name."""
    return name.lower() in sections()["niladic"]


def is_lambda(node: Node) -> bool:
    """Whether the engine treats a function node as a lambda, whatever its spelling."""
    flagged = bool(node.get("is_lambda_function")) or node.get("kind") == "LAMBDA_FUNCTION"
    return flagged or str(node.get("name", "")).lower() == "lambda"


def check_arguments(name: str, arguments: list[Node]) -> None:
    """Check the arguments that name an aggregate function or a type. Raises FUNCTION_REFUSED or SQL_REFUSED."""
    lower = name.lower()
    if lower in NAMED_AGGREGATE:
        _check_aggregate(name, arguments)
    if lower in TYPE_ARGUMENT:
        _check_type(name, arguments, TYPE_ARGUMENT[lower])


def _check_aggregate(name: str, arguments: list[Node]) -> None:
    """Refuse a call unless its first argument is a literal that names an allowed aggregate function."""
    text = text_of(arguments[0]) if arguments else None
    match = _AGGREGATE.fullmatch(text.strip()) if text is not None else None
    if match is None or not is_aggregate(match[1]):
        raise RookeryError(
            FUNCTION_REFUSED,
            f"`{name}` needs the name of an allowed aggregate function",
            hint=f"write it as a literal, as in {name}('sum', ...)",
        )


def _check_type(name: str, arguments: list[Node], position: int) -> None:
    """Refuse a cast to a type that is not a literal, or that contains an aggregate state."""
    text = text_of(arguments[position]) if len(arguments) > position else None
    if text is None:
        refuse(f"`{name}` without a literal type", "write the type as a literal")
    if _STATE.search(text):
        refuse(f"`{name}` to an aggregate state", "states come from -State functions only")


def refuse_parsing(root: Node) -> None:
    """Refuse casts of text to JSON in SQL that a caller sends. Raises RK2002.

    The engine finds the common type of lists inside one another in a time that grows with the cube of their number,
    and a single row cannot be interrupted.
    """
    for node in walk_all(root):
        name = str(node.get("name", "")).lower() if node.get("type") == "Function" else ""
        position = TYPE_ARGUMENT.get(name, -1 if name in _EXTRACTING else None)
        arguments = members(node.get("arguments"))
        if position is not None and arguments:
            type = text_of(arguments[position])
            # A cast of a text to `Dynamic` itself keeps it as a string.
            is_kept = position >= 0 and str(type).strip().lower() == "dynamic"
            if type is None or (_PARSED_TYPE.search(type) and not is_kept):
                refuse(f"`{node['name']}` to JSON", "read parts of the text: JSONExtractString(text, 'key')")


def text_of(node: Node) -> str | None:
    """The value of a string literal; None for any other node."""
    value: Any = node.get("value") if node.get("type") == "Literal" else None
    if isinstance(value, dict) and value.get("field_type") == "String" and isinstance(value.get("value"), str):
        return str(value["value"])
    return None
