"""Lists of SQL expressions in one text, such as a sorting key: split at commas, nothing more is understood."""

from __future__ import annotations

import itertools
import re

_CLOSING = {"(": ")", "[": "]", "{": "}"}
_QUOTED_NAME = re.compile(r"[`\"]([A-Za-z_][A-Za-z0-9_]*)[`\"]")
_TUPLE = re.compile(r"tuple\s*\(")
MAX_NESTING = 50
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def split_list(text: str) -> tuple[str, ...]:
    """The expressions of `a, b`, `(a, b)` or `tuple(a, b)`; none for `tuple()`.

    Raises ValueError, with a sentence that can be shown, when brackets or quotes do not match or a part is empty.
    """
    rest = text.strip()
    if _TUPLE.match(rest) and _inside(rest[5:].strip()) is not None:
        rest = rest[5:].strip()
        if not (_inside(rest) or "").strip():
            return ()
    while (inside := _inside(rest)) is not None:
        rest = inside.strip()
    return tuple(_bare(part) for part in _parts(rest))


def single_expression(text: str) -> str:
    """One expression, without brackets around it. Raises ValueError when the text is a list or not well formed."""
    parts = _parts(text)
    if len(parts) != 1:
        raise ValueError("an item of the list must be a single expression")
    return _bare(parts[0])


def plain_name(expression: str) -> str | None:
    """The column when an expression is nothing but its name."""
    return expression if IDENTIFIER.fullmatch(expression) else None


def is_codec(text: str) -> bool:
    """Whether a text is codecs separated by commas, or such a list in `CODEC( … )`, and nothing behind it."""
    try:
        if text.startswith("CODEC("):
            return _inside(text[5:]) is not None
        return all(_parts(text))
    except ValueError:
        return False


def _bare(part: str) -> str:
    while (inside := _inside(part)) is not None and len(_commas(inside)) == 0 and inside.strip():
        part = inside.strip()
    quoted = _QUOTED_NAME.fullmatch(part)
    return quoted[1] if quoted and part[0] == part[-1] else part


def _parts(text: str) -> list[str]:
    cuts = [-1, *_commas(text), len(text)]
    parts = [text[a + 1 : b].strip() for a, b in itertools.pairwise(cuts)]
    if not all(parts):
        raise ValueError("an expression of the list is empty")
    return parts


def _inside(text: str) -> str | None:
    """What stands between the brackets when one pair of round brackets encloses the whole text."""
    if not text.startswith("("):
        return None
    depths = _depths(text)
    closes = next((i for i, depth in depths if depth == 0 and text[i] == ")"), -1)
    return text[1:-1] if closes == len(text) - 1 else None


def _commas(text: str) -> list[int]:
    return [i for i, depth in _depths(text) if depth == 0 and text[i] == ","]


def _depths(text: str) -> list[tuple[int, int]]:
    """Every position outside of quotes with the depth of brackets behind it."""
    found: list[tuple[int, int]] = []
    closing: list[str] = []
    i = 0
    while i < len(text):
        char = text[i]
        if char in "'\"`":
            i = _quote_end(text, i)
            continue
        if text.startswith(("--", "/*", "#"), i):
            raise ValueError("comments are not possible in a list of expressions")
        if char in _CLOSING:
            closing.append(_CLOSING[char])
            if len(closing) > MAX_NESTING:
                raise ValueError(f"brackets are nested more than {MAX_NESTING} deep")
        elif char in ")]}" and (not closing or closing.pop() != char):
            raise ValueError("brackets do not match")
        found.append((i, len(closing)))
        i += 1
    if closing:
        raise ValueError("brackets do not match")
    return found


def _quote_end(text: str, start: int) -> int:
    """The position behind the quoted text that begins at `start`. A doubled quote reads as two quoted texts."""
    i = start + 1
    while i < len(text):
        if text[i] == "\\":
            i += 2
            continue
        if text[i] == text[start]:
            return i + 1
        i += 1
    raise ValueError("a quote is not closed")
