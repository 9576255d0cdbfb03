"""Re-encodes columns, so that they contain only values of the rows that are read.

A LowCardinality column refers to the dictionary of its part. The dictionary still has other tenants' values after
PREWHERE, and the engine evaluates most functions on the dictionary instead of the rows. Likewise, a dynamic column
(JSON, Dynamic) has all types of its part. So a function that fails on another tenant's value or type would fail the
caller's query. The expressions in this module rebuild a column from the rows that PREWHERE has selected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

_DYNAMIC = frozenset({"JSON", "Object", "Dynamic", "Variant"})
_ELEMENT_NAME = re.compile(r"(?:`(?:[^`\\]|\\.)*`|[A-Za-z_][A-Za-z0-9_]*)\s+(?=[A-Z])")
_WORD = re.compile(r"[A-Za-z0-9_]+")
_WRAPPER = "LowCardinality("


def has_dictionary(type: str) -> bool:
    """Whether values of a type, or parts of them, are stored as references to a dictionary."""
    return "LowCardinality" in _words(type)


def has_types(type: str) -> bool:
    """Whether a column of this type stores values of several types."""
    return bool(_DYNAMIC & _words(type))


def own_values(column: str, type: str, *, types: bool = False) -> str:
    """The SQL of a column without dictionary entries of other rows and, with `types`, without types of other rows.

    `column` is SQL, `type` the type as the engine spells it. The values stay the same. A LowCardinality column keeps
    its type. Inside arrays, maps and tuples, LowCardinality(T) becomes T, which has no cost. Returns `column` itself
    if its type needs no re-encoding.
    """
    # Aggregating the single value builds a new column, with the types of the rows that are read.
    if has_types(type) and (types or has_dictionary(type)):
        return f"arrayReduce('groupArray', [{column}])[1]"
    if not has_dictionary(type):
        return column
    plain = without_dictionary(type)
    if not _is_low_cardinality(type):
        return f"CAST({column}, '{_escaped(plain)}')"
    if plain in ("String", "Nullable(String)"):
        # Unlike a cast, toString() lets the engine use the primary key for conditions on the column.
        return f"toString({column})"
    return f"toLowCardinality(CAST({column}, '{_escaped(plain)}'))"


def plain_value(column: str, type: str) -> str:
    """The SQL of a LowCardinality(T) column as T. For another type, `column` itself."""
    return f"CAST({column}, '{_escaped(without_dictionary(type))}')" if _is_low_cardinality(type) else column


@lru_cache(maxsize=1000)
def without_dictionary(type: str) -> str:
    """A type with each LowCardinality(T) and SimpleAggregateFunction(…, T) in it replaced by T."""
    text = type.strip()
    if text.startswith("SimpleAggregateFunction("):
        return without_dictionary(_arguments(text)[-1])
    if not has_dictionary(text):
        return text
    if _is_low_cardinality(text):
        return without_dictionary(text[len(_WRAPPER) : -1])
    head, separator, _ = text.partition("(")
    if not separator:
        return text
    return f"{head}({', '.join(_argument_without_dictionary(part) for part in _arguments(text))})"


def _argument_without_dictionary(part: str) -> str:
    """An argument of a type without dictionaries. In a tuple, an argument may begin with a name."""
    name = _ELEMENT_NAME.match(part)
    return name.group() + without_dictionary(part[name.end() :]) if name else without_dictionary(part)


def _is_low_cardinality(type: str) -> bool:
    """Whether a type is LowCardinality itself, not only inside arrays, maps or tuples."""
    text = type.strip()
    if text.startswith("SimpleAggregateFunction("):
        return _is_low_cardinality(_arguments(text)[-1])
    return text.startswith(_WRAPPER)


def _words(type: str) -> frozenset[str]:
    """The words of a type outside quotes: the names of types, and of tuple elements, which are harmless here."""
    return frozenset(w for text, quoted in _quoted_sections(type) if not quoted for w in _WORD.findall(text))


def _arguments(type: str) -> list[str]:
    """The arguments between the outermost parentheses of a type."""
    inner = type[type.index("(") + 1 : type.rindex(")")]
    parts, depth, current = [], 0, ""
    for text, quoted in _quoted_sections(inner):
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


def _quoted_sections(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the sections of a string, each with whether it is quoted."""
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
