"""Checks tenant ids: which strings are canonical ids for each type of the tenant column."""

from __future__ import annotations

import re
import unicodedata

from engine.errors import BAD_TENANT_ID, TENANT_COLUMN, RookeryError, shown

MAX_TENANT_BYTES = 256
"""Maximum length of a tenant id, in bytes of UTF-8."""
_CANONICAL_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,99}")
_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_INTEGER_TYPE = re.compile(r"(U?)Int(8|16|32|64|128|256)")


def integer_bounds(type: str) -> tuple[int, int] | None:
    """Return the smallest and the largest value of an IntN or UIntN type, or None for other types."""
    match = _INTEGER_TYPE.fullmatch(type)
    if not match:
        return None
    bits = int(match[2])
    return (0, 2**bits - 1) if match[1] else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def base_type(type_text: str) -> str:
    """Return a tenant column's type without LowCardinality, as placeholders have it."""
    inner = type_text.strip()
    return inner[15:-1].strip() if inner.startswith("LowCardinality(") and inner.endswith(")") else inner


def canonical_tenant(type: str, raw: object) -> str:
    """Return a tenant id as text. `type` is String, LowCardinality(String), IntN, UIntN or UUID.

    A string must already be canonical; an int is accepted only for integer types. Raises BAD_TENANT_ID for any other
    value, and TENANT_COLUMN if a tenant column cannot have the type.
    """
    bounds = integer_bounds(type)
    if bounds is None and type not in ("String", "LowCardinality(String)", "UUID"):
        raise RookeryError(
            TENANT_COLUMN,
            f"a tenant column cannot be {shown(type)}",
            hint="use String, LowCardinality(String), UUID, IntN or UIntN",
        )
    if isinstance(raw, int) and not isinstance(raw, bool) and bounds and raw.bit_length() <= 256:
        raw = str(raw)
    problem = _tenant_problem(type, bounds, raw) if isinstance(raw, str) else "it must be a string"
    if problem or not isinstance(raw, str):
        raise RookeryError(BAD_TENANT_ID, f"tenant id {shown(raw)} is not a canonical {type}", hint=problem)
    return raw


def _tenant_problem(type: str, bounds: tuple[int, int] | None, text: str) -> str | None:
    """Return the rule that a string violates, or None for a canonical id. `bounds` are those of an integer type."""
    if not text:
        return "it must not be empty"
    if bounds:
        if not _CANONICAL_INTEGER.fullmatch(text):
            return "write digits only: no plus sign, leading zero, space or decimal point"
        return None if bounds[0] <= int(text) <= bounds[1] else f"{type} holds {bounds[0]} to {bounds[1]}"
    if type == "UUID":
        return None if _CANONICAL_UUID.fullmatch(text) else "write 8-4-4-4-12 hexadecimal digits in lower case"
    return _text_problem(text)


def _text_problem(text: str) -> str | None:
    # Only the beginning is examined, because a longer string is refused anyway.
    categories = {unicodedata.category(c) for c in text[: MAX_TENANT_BYTES + 1]}
    if "Cs" in categories:
        return "it must be valid Unicode"
    if categories & {"Cc", "Zl", "Zp"}:
        return "control characters and line breaks are not allowed"
    if len(text) > MAX_TENANT_BYTES or len(text.encode()) > MAX_TENANT_BYTES:
        return f"it must have at most {MAX_TENANT_BYTES} bytes of UTF-8"
    return None if unicodedata.is_normalized("NFC", text) else "it must be in Unicode normal form C"
