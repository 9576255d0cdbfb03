"""What a check examines, and what it reports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from engine.compiler.scope import Relation
from engine.compiler.storage import NULL_ENGINE
from engine.plan.progress import Progress, silent
from engine.schema import Name, Schema, Table
from engine.workspace.snapshot import Snapshot
from engine.workspace.workspace import Workspace

ERROR: Literal["error"] = "error"
WARNING: Literal["warning"] = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem: an `error` is wrong now; a `warning` may become an error, or deserves attention."""

    check: str
    """The name of the check that found it."""
    level: Literal["error", "warning"]
    object: str
    """What it concerns: a table, a view, a tenant, a file or the workspace."""
    message: str
    hint: str | None = None
    """The remedy."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def error(check: str, object: Name | str, message: str, hint: str | None = None) -> Finding:
    """An error."""
    return Finding(check, ERROR, str(object), message, hint)


def warning(check: str, object: Name | str, message: str, hint: str | None = None) -> Finding:
    """A warning."""
    return Finding(check, WARNING, str(object), message, hint)


@dataclass(frozen=True, slots=True)
class Context:
    """The workspace at one moment: what should exist, and what actually exists."""

    workspace: Workspace
    snapshot: Snapshot
    live: Schema
    """What exists."""
    desired: Schema
    """What the deployed files declare."""
    progress: Progress = silent
    """Reports the table that a check examines."""
    found: tuple[Finding, ...] = ()
    """What the checks before this one have found."""

    def landings(self) -> Iterator[tuple[Relation, Table]]:
        """Landing datasources with their live tables."""
        for name, relation in sorted(self.snapshot.build.relations.items()):
            table = self.live.tables.get(Name(self.workspace.name, name))
            if relation.kind == "landing" and table is not None:
                yield relation, table

    def nest_tables(self) -> Iterator[tuple[Table, Table]]:
        """Tables in nests that store rows, each as desired and as it is live."""
        for name, desired in sorted(self.desired.tables.items()):
            live = self.live.tables.get(name)
            in_nest = desired.mark is not None and desired.mark.kind == "nest"
            if in_nest and live is not None and desired.engine != NULL_ENGINE:
                yield desired, live
