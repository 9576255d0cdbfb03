"""What an examination looks at, and what it finds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from engine.compiler.scope import Relation
from engine.compiler.storage import NULL_ENGINE
from engine.schema import Name, Schema, Table
from engine.workspace.snapshot import Snapshot
from engine.workspace.workspace import Workspace

ERROR: Literal["error"] = "error"
WARNING: Literal["warning"] = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it must be (`error`), or that somebody should know (`warning`)."""

    check: str
    level: Literal["error", "warning"]
    object: str
    message: str
    hint: str | None = None

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
    """The workspace as it should be and as it is."""

    workspace: Workspace
    snapshot: Snapshot
    live: Schema
    desired: Schema

    def landings(self) -> Iterator[tuple[Relation, Table]]:
        """Landing datasources with their live tables."""
        for name, relation in sorted(self.snapshot.build.relations.items()):
            table = self.live.tables.get(Name(self.workspace.name, name))
            if relation.kind == "landing" and table is not None:
                yield relation, table

    def nests(self) -> Iterator[tuple[Table, Table]]:
        """Tables of nests that keep rows, as they should be, with the live ones."""
        for name, table in sorted(self.desired.tables.items()):
            live = self.live.tables.get(name)
            if (
                table.mark is not None
                and table.mark.kind == "nest"
                and live is not None
                and table.engine != NULL_ENGINE
            ):
                yield table, live
