"""Lists, maps and tuples in CSV. They are written as in SQL: `['a','b']`, `{'a':1}`, `(1,'a')`.

The engine reads them leniently: `[1,,2]` as `[1, 0, 2]`, `[1]x` as `[1]`, and `['2026-02-31']` as a day in March. So
they are staged as text, which is compared with the grammar of its type. Then each value in it becomes a string and is
checked like a value of its own. A string that was written in quotes keeps its opening quote as its first character.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.ingest.values.composite_types import composite, each
from engine.ingest.values.staging_rules import Sql, WideType
from engine.ingest.values.wide_types import bare, text_value
from engine.schema import literal
from engine.warehouse.type_names import Type

_IN_QUOTES = r"(?:[^'\\]|\\.|'')*"
_UNQUOTED = r"[^\s,:'\"\\\[\](){}]+"
_SPACE, _COMMA, _COLON = r"\s*", r"\s*,\s*", r"\s*:\s*"
_VALUE, _MARKED = rf"(')({_IN_QUOTES})'|({_UNQUOTED})", r"'\1\1\2\3'"
"""A value without parts, and what replaces it. A doubled quote is a quote in the string that the engine reads."""
_ESCAPES = r"^(?:[^\\]|\\(?:[\\'\"/abefnrtv0]|x[0-9A-Fa-f]{2}))*$"
"""A text with known escape sequences only. The engine reads any two bytes after `\\x`, even the closing quote, and
`\\N` as nothing.
"""
_NO_ELEMENTS = rf"^ *(?:\[{_SPACE}\]|\{{{_SPACE}\}}) *$"
_NEEDS_QUOTES = ("String", "FixedString")
MAX_PATTERN_CHARACTERS = 10_000
"""Maximum length of a type's grammar. The engine itself reads values of types that are nested more deeply."""


def csv_composite(type: Type) -> WideType | None:
    """How a list, map or tuple is staged from CSV; None if only the engine can read its elements."""
    values = _values_of(type)
    pattern = f"^ *{_pattern(type)} *$"
    if values is None or values.check is None or values.convert is None or len(pattern) > MAX_PATTERN_CHARACTERS:
        return None
    check, convert = values.check, values.convert

    def matches(v: str) -> str:
        return f"(match({v}, {_regex(pattern)}) AND match({v}, {_regex(_ESCAPES)}))"

    def parsed(v: str) -> str:
        # Casting a text that does not match would throw.
        return _parsed(type, f"if({matches(v)}, trim({v}), {literal(_empty(type))})")

    return WideType(
        "String",
        lambda v: f"({matches(v)} AND {_once('arrayAll', check, parsed(v))})",
        lambda v: f"{_once('arrayMap', convert, parsed(v))}[1]",
        True,
        values.restage,
    )


def has_elements(v: str) -> str:
    """The condition under which the text of a list or map is not that of an empty one."""
    return f"NOT match({v}, {_regex(_NO_ELEMENTS)})"


def _values_of(type: Type) -> WideType | None:
    """How the strings of which a staged value consists are checked and converted."""
    if not type.parts:
        return _value_of(type)
    parts = [_values_of(part) for part in type.parts]
    known = [part for part in parts if part is not None]
    return composite(type, known) if len(known) == len(parts) and not type.nullable else None


def _value_of(type: Type) -> WideType | None:
    """How a string with a mark becomes a value of a type without parts."""
    plain = bare(type)
    value = text_value(plain)
    if value is None:
        return None
    check, convert = value.check, value.convert

    def text(m: str) -> str:
        return f"if(startsWith({m}, ''''), substring({m}, 2), {m})"

    def is_valid(m: str) -> str:
        conditions = [f"startsWith({m}, '''')"] if plain.kind in _NEEDS_QUOTES else []
        conditions += [check(text(m))] if check else []
        valid = f"({' AND '.join(conditions)})"
        return f"(upper({m}) = 'NULL' OR {valid})" if type.nullable else valid

    def converted(m: str) -> str:
        result = convert(text(m)) if convert else text(m)
        return f"if(upper({m}) = 'NULL', NULL, {result})" if type.nullable else result

    return WideType("String", is_valid, converted, True, value.restage)


def _parsed(type: Type, v: str) -> str:
    """The strings of which a text consists, in lists, maps and tuples as in the type."""
    if not type.parts:
        return f"{_cast_list(type, v)}[1]"
    if not _has_map(type):
        return _cast(type, v)
    patterns = [_pattern(part) for part in type.parts]
    if type.kind == "Tuple":
        groups = ([*patterns[:n], f"({p})", *patterns[n + 1 :]] for n, p in enumerate(patterns))
        parts = [(part, _regex(f"^{_tuple(group)}$")) for part, group in zip(type.parts, groups, strict=True)]

        def parsed_tuple(v: str) -> str:
            return f"tuple({', '.join(_parsed(part, f'extract({v}, {regex})') for part, regex in parts)})"

        return f"{_once('arrayMap', parsed_tuple, v)}[1]"
    inner = f"substring({v}, 2, -1)"
    if type.kind == "Array":
        return _parsed_list(type.parts[0], f"extractAll({inner}, {_regex(patterns[0])})")
    (key, value), (keys, values) = patterns, type.parts

    def parsed_map(v: str) -> str:
        key_texts = f"extractAll({v}, {_regex(f'({key}){_COLON}{value}')})"
        value_texts = f"extractAll({v}, {_regex(f'{key}{_COLON}({value})')})"
        return f"mapFromArrays({_parsed_list(keys, key_texts)}, {_parsed_list(values, value_texts)})"

    return f"{_once('arrayMap', parsed_map, inner)}[1]"


def _once(function: str, inner: Sql, v: str) -> str:
    """The SQL of a function over an array with one value. However often `inner` names the value, it is written once:
    repeated at each level of nesting, it would exceed the engine's limits for statements.
    """
    return each(function, inner, f"[{v}]")


def _parsed_list(element: Type, texts: str) -> str:
    """The parsed values of an array of texts."""
    if _has_map(element):
        return each("arrayMap", lambda v: _parsed(element, v), texts)
    return _cast_list(element, f"arrayStringConcat({texts}, ',')")


def _cast_list(element: Type, texts: str) -> str:
    """The list of values without maps whose texts are joined with commas."""
    return _cast(Type("Array", "", parts=(element,)), f"concat('[', {texts}, ']')")


def _cast(type: Type, v: str) -> str:
    """A text without maps, as the engine reads it when every value is a string in quotes."""
    return f"CAST(replaceRegexpAll({v}, {_regex(_VALUE)}, {literal(_MARKED)}) AS {_staged(type)})"


def _staged(type: Type) -> str:
    """A type with strings in place of all types without parts."""
    return f"{type.kind}({', '.join(map(_staged, type.parts))})" if type.parts else "String"


def _has_map(type: Type) -> bool:
    """Whether the text of a value has maps, which the engine cannot cast from text."""
    return type.kind == "Map" or any(map(_has_map, type.parts))


def _pattern(type: Type) -> str:
    """The regular expression of a value's text."""
    if not type.parts:
        return f"(?:'{_IN_QUOTES}'|{_UNQUOTED})"
    parts = [_pattern(part) for part in type.parts]
    if type.kind == "Tuple":
        return _tuple(parts)
    element = _COLON.join(parts)
    elements = f"{_SPACE}(?:{element}(?:{_COMMA}{element})*{_SPACE})?"
    return rf"\[{elements}\]" if type.kind == "Array" else rf"\{{{elements}\}}"


def _tuple(parts: Sequence[str]) -> str:
    """The regular expression of a tuple with these elements. An only element may have a comma after it."""
    last = f"{_SPACE},?" if len(parts) == 1 else ""
    return rf"\({_SPACE}{_COMMA.join(parts)}{last}{_SPACE}\)"


def _regex(pattern: str) -> str:
    """A regular expression as SQL. Its dots match line breaks too."""
    return literal(f"(?s){pattern}")


def _empty(type: Type) -> str:
    """The text of a value that can always be read."""
    if type.kind == "Tuple":
        return f"({', '.join(map(_empty, type.parts))}{',' if len(type.parts) == 1 else ''})"
    return {"Array": "[]", "Map": "{}"}.get(type.kind, "''")
