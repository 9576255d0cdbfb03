"""Numbers with their nouns, for messages."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """A number with its noun, such as `1 row` or `2,000 rows`. The plural of `noun` must end in `s`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
