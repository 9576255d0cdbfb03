"""Lists of SQL expressions in one string, such as a sorting key. They are split at commas and not parsed further."""

from __future__ import annotations

import itertools
import re

_CLOSING = {"(": ")", "[": "]", "{": "}"}
_QUOTED_NAME = re.compile(r"[`\"]([A-Za-z_][A-Za-z0-9_]*)[`\"]")
_TUPLE = re.compile(r"tuple\s*\(")
MAX_NESTING = 50
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def split_list(text: str) -> tuple[str, ...]:
    """Split `a, b`, `(a, b)` or `tuple(a, b)` into its expressions; `tuple()` becomes an empty tuple.

    Raises ValueError, with a message for users, if brackets or quotes do not match or an expression is empty.
    """
    items = text.strip()
    if _TUPLE.match(items) and _inside(items[5:].strip()) is not None:
        items = items[5:].strip()
        if not (_inside(items) or "").strip():
            return ()
    while (inside := _inside(items)) is not None:
        items = inside.strip()
    return tuple(_bare(part) for part in _parts(items))


def single_expression(text: str) -> str:
    """Strip the brackets around a single expression. Raises ValueError if it is a list or malformed."""
    parts = _parts(text)
    if len(parts) != 1:
        raise ValueError("each item of the list must be a single expression")
    return _bare(parts[0])


def plain_name(expression: str) -> str | None:
    """Return the expression if it is just a column name, else None."""
    return expression if IDENTIFIER.fullmatch(expression) else None


def is_codec(text: str) -> bool:
    """Whether the string consists of codecs separated by commas, optionally inside `CODEC( … )`."""
    try:
        if text.startswith("CODEC("):
            return _inside(text[5:]) is not None
        return all(_parts(text))
    except ValueError:
        return False


def _bare(part: str) -> str:
    """Strip brackets and, if the expression is just a quoted name, the quotes."""
    # `((a))` is `a`, but `(a, b)` is a tuple.
    while (inside := _inside(part)) is not None and len(_commas(inside)) == 0 and inside.strip():
        part = inside.strip()
    quoted = _QUOTED_NAME.fullmatch(part)
    return quoted[1] if quoted and part[0] == part[-1] else part


def _parts(text: str) -> list[str]:
    cuts = [-1, *_commas(text), len(text)]
    parts = [text[a + 1 : b].strip() for a, b in itertools.pairwise(cuts)]
    if not all(parts):
        raise ValueError("an expression in the list is empty")
    return parts


def _inside(text: str) -> str | None:
    """The part between the round brackets if one pair encloses the whole expression, else None."""
    if not text.startswith("("):
        return None
    depths = _depths(text)
    closes = next((i for i, depth in depths if depth == 0 and text[i] == ")"), -1)
    return text[1:-1] if closes == len(text) - 1 else None


def _commas(text: str) -> list[int]:
    return [i for i, depth in _depths(text) if depth == 0 and text[i] == ","]


def _depths(text: str) -> list[tuple[int, int]]:
    """Every position outside quotes, with the nesting depth of brackets after it."""
    depths: list[tuple[int, int]] = []
    closing: list[str] = []
    i = 0
    while i < len(text):
        char = text[i]
        if char in "'\"`":
            i = _quote_end(text, i)
            continue
        if text.startswith(("--", "/*", "#"), i):
            raise ValueError("a list of expressions cannot contain comments")
        if char in _CLOSING:
            closing.append(_CLOSING[char])
            if len(closing) > MAX_NESTING:
                raise ValueError(f"brackets are nested more than {MAX_NESTING} deep")
        elif char in ")]}" and (not closing or closing.pop() != char):
            raise ValueError("brackets do not match")
        depths.append((i, len(closing)))
        i += 1
    if closing:
        raise ValueError("brackets do not match")
    return depths


def _quote_end(text: str, start: int) -> int:
    """The position after the quoted string that begins at `start`. A doubled quote counts as two quoted strings."""
    i = start + 1
    while i < len(text):
        if text[i] == "\\":
            i += 2
            continue
        if text[i] == text[start]:
            return i + 1
        i += 1
    raise ValueError("a quote is not closed")
