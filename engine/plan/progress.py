"""How long-running operations report their progress."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the name of the current operation, the amount done, and the total."""


def silent(_what: str, _done: int, _total: int) -> None:
    """Report no progress."""
