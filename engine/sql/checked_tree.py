"""What the checker collects from an allowed tree."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from engine.sql.argument_bounds import GROWING, SCANNING, SLOW
from engine.sql.tree import Node


@dataclass(slots=True)
class CheckedTree:
    """What the checker collects from an allowed tree. The nodes belong to that tree, for later rewriting."""

    reads: Counter[str] = field(default_factory=Counter)
    """How many places read each bound name."""
    hoistable: dict[str, list[Node]] = field(default_factory=dict)
    """Table expressions with FINAL or SAMPLE, by the name that they read."""
    prewheres: list[Node] = field(default_factory=list)
    """SELECTs with PREWHERE."""
    qualify: list[tuple[Node, str]] = field(default_factory=list)
    """Identifiers that need a qualifier, each with the table that qualifies it."""
    bounded: list[Node] = field(default_factory=list)
    """Calls whose arguments are rewritten (`argument_bounds`)."""
    has_limits: bool = False
    """Whether one of these calls needs a length limit."""
    called: set[str] = field(default_factory=set)
    """The names of all functions that are called, in lower case."""

    @property
    def is_slow(self) -> bool:
        """Whether the query needs small blocks, so that the engine checks time limits often enough."""
        scans_long_constants = not GROWING.isdisjoint(self.called) and not SCANNING.isdisjoint(self.called)
        return self.has_limits or not SLOW.isdisjoint(self.called) or scans_long_constants
