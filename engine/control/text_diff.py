"""The difference between a deployed file and a pushed one, as text."""

from __future__ import annotations

import difflib

MAXIMUM_LINES = 5_000
"""Lines of both files together up to which they are compared. The time grows with the square of their number."""


def unified(before: str, after: str, file: str) -> str:
    """A unified diff; empty if there is no difference. Files that are too long get a line that says so."""
    old, new = before.splitlines(), after.splitlines()
    if len(old) + len(new) > MAXIMUM_LINES:
        return f"{file}: {len(old):,} → {len(new):,} lines, too long to compare"
    lines = difflib.unified_diff(old, new, f"deployed/{file}", file, lineterm="")
    return "\n".join(lines) or _line_ends(before, after, file)


def _line_ends(before: str, after: str, file: str) -> str:
    return f"{file}: only line ends differ" if before != after else ""
