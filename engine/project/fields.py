"""The kinds of value a key can have: how the text of a file becomes a name, a number, a flag or an expression."""

from __future__ import annotations

import re
from typing import Annotated, Any, NoReturn

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from engine.project.expressions import single_expression, split_list
from engine.project.source import YamlText, shown

MAX_NAME = 120
# The first are databases with a meaning of their own; then comes a row of the registry, which makes older programs
# refuse the workspace; the others the engine does not read as the name of a table.
RESERVED = frozenset(
    {"tinybird", "system", "information_schema", "default", "written_by_a_newer_rookery"}
) | frozenset({"select", "not", "null", "true", "false", "recursive", "nan", "inf"})
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
    """Refuse a value with a sentence that follows the name of its key."""
    raise PydanticCustomError(kind, "{message}", {"message": message, "hint": hint})


def name_fault(name: str) -> tuple[str, str] | None:
    """Why a text cannot be the name of a datasource, pipe or node: message and hint. None when it can."""
    if not _NAME.fullmatch(name):
        hint = "letters, digits and underscores, not beginning with a digit, and not underscores only"
        return f"`{shown(name)}` cannot be a name", hint
    if len(name) > MAX_NAME:
        return f"`{shown(name)}` is too long for a name", f"at most {MAX_NAME} characters"
    if _INTERNAL.match(name.lower()):
        return f"`{name}` cannot be a name", "names beginning with rk_ or _rk_ are for internal use"
    if name.lower() in RESERVED:
        return f"`{name}` is a reserved word", "choose another name"
    return None


def _name(value: str) -> str:
    fault = name_fault(value)
    if fault:
        fail(*fault, kind="bad_name")
    return value


def _column_name(value: str) -> str:
    if not _COLUMN.fullmatch(value) or len(value) > MAX_NAME:
        hint = f"letters, digits and underscores, not beginning with a digit, at most {MAX_NAME} characters"
        fail(f"`{shown(value)}` cannot be the name of a column or parameter", hint, kind="bad_name")
    if value.lower().startswith("_rk_"):
        fail(f"`{shown(value)}` cannot be used", "names beginning with _rk_ are for internal use", kind="bad_name")
    return value


def _token_name(value: str) -> str:
    if not value.strip() or len(value) > MAX_NAME or not value.isprintable():
        fail("must be a short text", f"1 to {MAX_NAME} printable characters", kind="bad_name")
    return value


def _expression(value: str) -> str:
    found = value.strip()
    if not found:
        fail("is empty")
    return found


def _optional(value: Any) -> Any:
    if isinstance(value, YamlText) and not value.strip():
        fail("is empty", "remove the key; an empty text in SQL is written \"''\"")
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
    found = _SIZE.fullmatch(value)
    if not found:
        fail(f"must be a number of bytes, not `{shown(value)}`", "such as 536870912 or 512MiB")
    return int(found[1]) * _UNITS[(found[2] or "").upper()]


def _limited(value: int) -> int:
    if not 1 <= value <= MAX_NUMBER:
        fail("must be at least 1 and fit in 63 bits")
    return value


def _duration(value: float) -> float:
    if not 0 < value <= 86_400:
        fail("must be more than 0 and at most 86400 seconds")
    return value


def _expressions(value: Any) -> Any:
    try:
        if isinstance(value, str):
            return split_list(value)
        if isinstance(value, (list, tuple)):
            return tuple(single_expression(item) if isinstance(item, str) else item for item in value)
    except ValueError as exc:
        fail(f"cannot be read: {exc}", "write a list: [tenant_id, timestamp]", kind="sorting_key")
    return value


def _settings(value: Any) -> Any:
    if isinstance(value, tuple):
        value = dict(value)
    if not isinstance(value, dict):
        fail("must be a mapping")
    for name, setting in value.items():
        if not _SETTING_NAME.fullmatch(name):
            fail(f"has a name that no setting has: `{shown(name)}`", "lower case letters, digits and underscores")
        if not isinstance(setting, str) or not _SETTING_VALUE.fullmatch(setting):
            fail(f"has a value that is not plain for `{name}`", "a number or a word")
    return tuple(sorted((str(name), str(setting)) for name, setting in value.items()))


def json_steps(path: str) -> list[str | None]:
    """The keys of a JSON path, from the outermost, and None for each `[:]`."""
    return [plain or odd or None for plain, odd in _JSON_STEP.findall(path)]


def _json_path(value: str) -> str:
    if value and not _JSON_PATH.fullmatch(value):
        hint = "such as $.page.path, $.items[:], $.items[:].key or $['odd name']"
        fail(f"is not a JSON path: `{shown(value)}`", hint)
    return value


def _index_type(value: str) -> str:
    found = value.strip()
    if not _INDEX_TYPE.fullmatch(found):
        fail(f"is not a type of index: `{shown(value)}`", "such as minmax or bloom_filter(0.01)")
    return found


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
"""Text that looks like a number or truth value in YAML and is taken as written."""
Expression = Annotated[str, AfterValidator(_expression)]
"""SQL that stands in a larger statement: an expression, a type, a codec."""
Clause = Annotated[str, BeforeValidator(_optional)]
"""The same where nothing may be given; then it is empty."""
Default = Annotated[str, BeforeValidator(_optional), WithJsonSchema(_ANY_SCALAR)]
"""The default of a column: SQL that looks like a number or truth value in YAML is taken as written."""
Sql = Annotated[str, AfterValidator(_sql)]
JsonPath = Annotated[str, AfterValidator(_json_path), WithJsonSchema({"type": "string", "pattern": r"^\$"})]
IndexType = Annotated[str, AfterValidator(_index_type)]
Expressions = Annotated[
    tuple[str, ...],
    BeforeValidator(_expressions),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
"""Several expressions, written as one text with commas or as a list."""
Settings = Annotated[
    tuple[tuple[str, str], ...],
    BeforeValidator(_settings),
    WithJsonSchema({"type": "object", "additionalProperties": _ANY_SCALAR}),
]
Flag = Annotated[bool, BeforeValidator(_flag)]
Count = Annotated[
    int,
    BeforeValidator(_whole),
    AfterValidator(_limited),
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
    AfterValidator(_limited),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": MAX_NUMBER},
                {"type": "string", "pattern": r"^[0-9]+ ?(([KkMmGg]i?)?[Bb])?$"},
            ]
        }
    ),
]
DESCRIPTION: Any = Field(default="", description="What it is, for readers.")
