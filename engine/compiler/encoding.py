"""Re-encoding of columns, so that they carry nothing but the rows that are read.

A LowCardinality column carries the dictionary of its part. That still holds other tenants' values after PREWHERE, and
the engine evaluates most functions on the dictionary instead of the rows. A dynamic column (JSON, Dynamic) carries
the types of its part in the same way. A function that fails on a value or a type of another tenant then fails the
caller's query. The expressions here rebuild the column from the rows that are left.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

_DYNAMIC = frozenset({"JSON", "Object", "Dynamic", "Variant"})
_NAME_BEFORE = re.compile(r"(?:`(?:[^`\\]|\\.)*`|[A-Za-z_][A-Za-z0-9_]*)\s+(?=[A-Z])")
_WORD = re.compile(r"[A-Za-z0-9_]+")
_WRAPPER = "LowCardinality("


def has_dictionary(type: str) -> bool:
    """Whether values of a type, or parts of them, are stored as positions in a dictionary."""
    return "LowCardinality" in _words(type)


def has_types(type: str) -> bool:
    """Whether a column of this type keeps a set of types of its own."""
    return bool(_DYNAMIC & _words(type))


def own_values(column: str, type: str, *, types: bool = False) -> str:
    """The SQL of a column without foreign dictionary values and, if `types` is set, without foreign types.

    `column` is SQL, `type` the type as the engine spells it. The result has the same values. A LowCardinality column
    keeps its type; inside arrays, maps and tuples LowCardinality becomes the type that it wraps, which costs nothing.
    The column itself is returned where there is nothing to do.
    """
    if has_types(type) and (types or has_dictionary(type)):
        return f"arrayReduce('groupArray', [{column}])[1]"
    if not has_dictionary(type):
        return column
    plain = without_dictionary(type)
    if not _is_wrapped(type):
        return f"CAST({column}, '{_escaped(plain)}')"
    if plain in ("String", "Nullable(String)"):
        # Unlike a cast, this leaves conditions on the column to the primary key.
        return f"toString({column})"
    return f"toLowCardinality(CAST({column}, '{_escaped(plain)}'))"


def plain_value(column: str, type: str) -> str:
    """The SQL of a LowCardinality column as the type that it wraps; of any other column, the column."""
    return f"CAST({column}, '{_escaped(without_dictionary(type))}')" if _is_wrapped(type) else column


@lru_cache(maxsize=1000)
def without_dictionary(type: str) -> str:
    """A type with every LowCardinality(T) in it replaced by T, and aggregate wrappers of simple values removed."""
    text = type.strip()
    if text.startswith("SimpleAggregateFunction("):
        return without_dictionary(_arguments(text)[-1])
    if not has_dictionary(text):
        return text
    if _is_wrapped(text):
        return without_dictionary(text[len(_WRAPPER) : -1])
    head, separator, _ = text.partition("(")
    if not separator:
        return text
    return f"{head}({', '.join(_named(part) for part in _arguments(text))})"


def _named(part: str) -> str:
    """An argument of a type, which in a tuple may have a name before it."""
    name = _NAME_BEFORE.match(part)
    return name.group() + without_dictionary(part[name.end() :]) if name else without_dictionary(part)


def _is_wrapped(type: str) -> bool:
    text = type.strip()
    if text.startswith("SimpleAggregateFunction("):
        return _is_wrapped(_arguments(text)[-1])
    return text.startswith(_WRAPPER)


def _words(type: str) -> frozenset[str]:
    """The words of a type outside quotes: names of types and, harmlessly, of tuple elements."""
    return frozenset(w for text, quoted in _pieces(type) if not quoted for w in _WORD.findall(text))


def _arguments(type: str) -> list[str]:
    """The arguments between the outermost parentheses of a type."""
    inner = type[type.index("(") + 1 : type.rindex(")")]
    parts, depth, current = [], 0, ""
    for text, quoted in _pieces(inner):
        if quoted:
            current += text
            continue
        for character in text:
            depth += (character == "(") - (character == ")")
            if character == "," and depth == 0:
                parts.append(current.strip())
                current = ""
            else:
                current += character
    return [*parts, current.strip()]


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    """The text in pieces, each with whether it is in quotes."""
    start = position = 0
    while position < len(text):
        quote = text[position]
        if quote not in "'`":
            position += 1
            continue
        if position > start:
            yield text[start:position], False
        end = position + 1
        while end < len(text) and text[end] != quote:
            end += 2 if text[end] == "\\" else 1
        yield text[position : end + 1], True
        start = position = end + 1
    if start < len(text):
        yield text[start:], False


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")
