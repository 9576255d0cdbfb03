"""Removes tokens from text."""

from __future__ import annotations

import re

_IN_QUERY = re.compile(r"token=[^&\s]++", re.IGNORECASE)
_DOTTED = re.compile(r"(?<![A-Za-z0-9_-])[A-Za-z0-9_-]++(?:\.[A-Za-z0-9_-]*+)++")
_TOKEN_PART = re.compile(r"\bey[A-Za-z0-9_-]{8}")


def redact(text: str) -> str:
    """Replace everything in a string that looks like a token."""
    return _DOTTED.sub(_redacted_match, _IN_QUERY.sub("[token]", text))


def _redacted_match(match: re.Match[str]) -> str:
    """Replace the token in a run of parts joined by dots, or return the run unchanged if it contains none.

    A JWT has a part that begins with `ey`; a static token has the part `p` and a payload after it.
    """
    text = match[0]
    position = 0
    *parts, _ = text.split(".")
    for n, part in enumerate(parts):
        jwt_start = _TOKEN_PART.search(part)
        if jwt_start is not None:
            return text[: position + jwt_start.start()] + "[token]"
        static = part == "p" or part.endswith("-p")
        if static and n + 1 < len(parts) and len(parts[n + 1]) >= 8:
            return text[: position + len(part) - 1] + "[token]"
        position += len(part) + 1
    return text
