"""Types of the values in project files: how YAML text becomes a name, a number, a flag or an expression."""

from __future__ import annotations

import re
from typing import Annotated, Any, NoReturn

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from engine.project.expressions import single_expression, split_list
from engine.project.source import YamlText, shown

MAX_NAME = 120
"""Longest name in a project, in characters."""
RESERVED = frozenset({
    # Databases with a special meaning.
    "tinybird", "system", "information_schema", "default",
    # The name of a registry row that makes older programs refuse the workspace (layout_version.STOP_NAME).
    "written_by_a_newer_rookery",
    # Words that the engine does not parse as the name of a table.
    "select", "not", "null", "true", "false", "recursive", "nan", "inf",
})  # fmt: skip
"""Names that no datasource, pipe or node can have, in lower case."""
NAME_PATTERN = r"^([A-Za-z]|_+[A-Za-z0-9])[A-Za-z0-9_]*$"
COLUMN_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"
_NAME = re.compile(NAME_PATTERN, re.ASCII)
_COLUMN = re.compile(COLUMN_PATTERN, re.ASCII)
_WHOLE = re.compile(r"[0-9]{1,19}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?", re.ASCII)
MAX_NUMBER = 2**63 - 1
_INTERNAL = re.compile(r"_rk[0-9]*_|rk_")

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SIZE = re.compile(r"([0-9]{1,19}) ?((?:[KMG]i?)?B)?", re.IGNORECASE | re.ASCII)
_SETTING_NAME = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
_SETTING_VALUE = re.compile(r"[A-Za-z0-9_.:-]{1,200}", re.ASCII)
_INDEX_TYPE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\s*(\([^()]*\))?")
_KEY = r"(?:\.[^\s.\[\]'\"]+|\['[^']+'\])"
_JSON_PATH = re.compile(rf"\$(?:{_KEY}(?:\[:\])?)+")
_JSON_STEP = re.compile(r"\.([^\s.\[\]'\"]+)|\['([^']+)'\]|\[:\]")


def fail(message: str, hint: str | None = None, kind: str = "bad_value") -> NoReturn:
    """Refuse a value. The message continues a sentence that begins with the key, unless it begins with a
    backquote.
    """
    raise PydanticCustomError(kind, "{message}", {"message": message, "hint": hint})


def name_fault(name: str) -> tuple[str, str] | None:
    """Message and hint if the string cannot be the name of a datasource, pipe or node; None if it can."""
    if not _NAME.fullmatch(name):
        hint = "use letters, digits and underscores; do not begin with a digit, and do not use underscores only"
        return f"`{shown(name)}` is not a valid name", hint
    if len(name) > MAX_NAME:
        return f"`{shown(name)}` is too long for a name", f"use at most {MAX_NAME} characters"
    if _INTERNAL.match(name.lower()):
        return f"`{name}` is not a valid name", "names that begin with rk_ or _rk_ are reserved for internal use"
    if name.lower() in RESERVED:
        return f"`{name}` is a reserved word", "choose another name"
    return None


def _name(value: str) -> str:
    fault = name_fault(value)
    if fault:
        fail(*fault, kind="bad_name")
    return value


def _column_name(value: str) -> str:
    """Refuse a name that SQL would have to quote, or that rookery uses itself."""
    if not _COLUMN.fullmatch(value) or len(value) > MAX_NAME:
        hint = f"use letters, digits and underscores, not beginning with a digit, at most {MAX_NAME} characters"
        fail(f"`{shown(value)}` cannot be the name of a column or parameter", hint, kind="bad_name")
    if value.lower().startswith("_rk_"):
        hint = "names that begin with _rk_ are reserved for internal use"
        fail(f"`{shown(value)}` cannot be the name of a column or parameter", hint, kind="bad_name")
    return value


def _token_name(value: str) -> str:
    if not value.strip() or len(value) > MAX_NAME or not value.isprintable():
        fail("must be a short text", f"use 1 to {MAX_NAME} printable characters", kind="bad_name")
    return value


def _expression(value: str) -> str:
    expression = value.strip()
    if not expression:
        fail("is empty")
    return expression


def _optional(value: Any) -> Any:
    if isinstance(value, YamlText) and not value.strip():
        fail("is empty", "remove the key, or write \"''\" for an empty SQL string")
    return value.strip() if isinstance(value, str) else value


def _sql(value: str) -> str:
    if not value.strip():
        fail("is empty", "write a SELECT")
    return value.rstrip()


def _flag(value: Any) -> Any:
    if isinstance(value, str):
        if value not in ("true", "false"):
            fail(f"must be true or false, not `{shown(value)}`")
        return value == "true"
    return value


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        if not _WHOLE.fullmatch(value):
            fail(f"must be a whole number, not `{shown(value)}`")
        return int(value)
    return value


def _seconds(value: Any) -> Any:
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            fail(f"must be a number of seconds, not `{shown(value)}`", "such as 5 or 0.5")
        return float(value)
    return value


def _size(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value)
    if not match:
        fail(f"must be a number of bytes, not `{shown(value)}`", "such as 536870912 or 512MiB")
    return int(match[1]) * _UNITS[(match[2] or "").upper()]


def _positive(value: int) -> int:
    if not 1 <= value <= MAX_NUMBER:
        fail("must be between 1 and 2^63 - 1")
    return value


def _duration(value: float) -> float:
    if not 0 < value <= 86_400:
        fail("must be more than 0 and at most 86400 seconds")
    return value


def _expressions(value: Any) -> Any:
    """Split a string or list into canonical expressions."""
    try:
        if isinstance(value, str):
            return split_list(value)
        if isinstance(value, (list, tuple)):
            return tuple(single_expression(item) if isinstance(item, str) else item for item in value)
    except ValueError as exc:
        fail(f"is not a list of expressions: {exc}", "write a list: [tenant_id, timestamp]", kind="sorting_key")
    return value


def _key(value: Any) -> Any:
    """Write several expressions, given as a list or with commas, as one tuple."""
    if isinstance(value, str):
        text = str(_optional(value))
        try:
            parts = split_list(text)
        except ValueError:
            # Reported with the engine's reason, like any other expression that it refuses.
            return text
        return f"({', '.join(parts)})" if len(parts) > 1 else text
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        parts = _expressions(value)
        return f"({', '.join(parts)})" if len(parts) > 1 else "".join(parts)
    return value


def _settings(value: Any) -> Any:
    """Check names and values of table settings, and sort them, so that their order is not a change."""
    if isinstance(value, tuple):
        value = dict(value)
    if not isinstance(value, dict):
        fail("must be a mapping")
    for name, setting in value.items():
        if not _SETTING_NAME.fullmatch(name):
            hint = "names consist of lower-case letters, digits and underscores"
            fail(f"contains `{shown(name)}`, which is not a valid setting name", hint)
        if not isinstance(setting, str) or not _SETTING_VALUE.fullmatch(setting):
            fail(f"has an invalid value for `{name}`", "write a number or a single word")
    return tuple(sorted((str(name), str(setting)) for name, setting in value.items()))


def json_steps(path: str) -> list[str | None]:
    """The keys of a JSON path, outermost first, with None for each `[:]`."""
    return [plain or quoted or None for plain, quoted in _JSON_STEP.findall(path)]


def _json_path(value: str) -> str:
    if value and not _JSON_PATH.fullmatch(value):
        hint = "such as $.page.path, $.items[:], $.items[:].key or $['odd name']"
        fail(f"is not a valid JSON path: `{shown(value)}`", hint)
    return value


def _index_type(value: str) -> str:
    index_type = value.strip()
    if not _INDEX_TYPE.fullmatch(index_type):
        fail(f"is not a valid index type: `{shown(value)}`", "such as minmax or bloom_filter(0.01)")
    return index_type


_ANY_SCALAR = {"type": ["string", "number", "boolean"]}
_NAME_SCHEMA = {"type": "string", "pattern": NAME_PATTERN, "maxLength": MAX_NAME}

ResourceName = Annotated[str, AfterValidator(_name), WithJsonSchema(_NAME_SCHEMA)]
ColumnName = Annotated[
    str,
    AfterValidator(_column_name),
    WithJsonSchema({"type": "string", "pattern": COLUMN_PATTERN, "maxLength": MAX_NAME}),
]
TokenName = Annotated[
    str, AfterValidator(_token_name), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_NAME})
]
Prose = Annotated[str, AfterValidator(str.strip)]
Word = Annotated[str, WithJsonSchema(_ANY_SCALAR)]
"""A value that is kept as written, although YAML may read it as a number or a boolean."""
Expression = Annotated[str, AfterValidator(_expression)]
"""SQL that becomes part of a larger statement: an expression, a type or a codec."""
Clause = Annotated[str, BeforeValidator(_optional)]
"""An optional expression; empty when the key is absent."""
Default = Annotated[str, BeforeValidator(_optional), WithJsonSchema(_ANY_SCALAR)]
"""The SQL default of a column, kept as written, although YAML may read it as a number or a boolean."""
Sql = Annotated[str, AfterValidator(_sql)]
JsonPath = Annotated[str, AfterValidator(_json_path), WithJsonSchema({"type": "string", "pattern": r"^\$"})]
IndexType = Annotated[str, AfterValidator(_index_type)]
Expressions = Annotated[
    tuple[str, ...],
    BeforeValidator(_expressions),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
"""Several expressions, written as a list or as one string with commas."""
Key = Annotated[
    str,
    BeforeValidator(_key),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
"""Like `Expressions`, as the engine writes it; empty when the key is absent."""
Settings = Annotated[
    tuple[tuple[str, str], ...],
    BeforeValidator(_settings),
    WithJsonSchema({"type": "object", "additionalProperties": _ANY_SCALAR}),
]
Flag = Annotated[bool, BeforeValidator(_flag)]
Count = Annotated[
    int,
    BeforeValidator(_whole),
    AfterValidator(_positive),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MAX_NUMBER}),
]
Seconds = Annotated[
    float,
    BeforeValidator(_seconds),
    AfterValidator(_duration),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": 86_400}),
]
Size = Annotated[
    int,
    BeforeValidator(_size),
    AfterValidator(_positive),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": MAX_NUMBER},
                {"type": "string", "pattern": r"^[0-9]+ ?(([KkMmGg]i?)?[Bb])?$"},
            ]
        }
    ),
]
DESCRIPTION: Any = Field(default="", description="Description for readers.")
