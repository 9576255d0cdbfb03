"""What the compiler's passes share: the build in the making, and what is asked of an engine on the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from engine.compiler import storage
from engine.compiler.compose import Composer
from engine.compiler.definitions import Definer
from engine.compiler.pipes import CompiledPipe
from engine.compiler.refused_definitions import Shape
from engine.compiler.scope import Relation
from engine.errors import Collector, RookeryError
from engine.project.model import Datasource, Project
from engine.schema import Column, Table
from engine.sql.row_origin import Origin
from engine.template.parameters import Value


def scratch_database(workspace: str) -> str:
    """The database in which pipes are analysed over empty tables."""
    return f"{workspace}_scratch"


class Analyser(Definer, Protocol):
    """What the compiler asks of an engine about types."""

    def describe(self, sql: str, bindings: Mapping[str, Value], tables: Iterable[Table]) -> tuple[Column, ...]:
        """Output columns of a SELECT over empty tables that are created for it in the scratch database."""
        ...


@dataclass(frozen=True, slots=True)
class Undeclared:
    """A pipe that shares tenants' rows without saying so, and was deployed before that was refused."""

    pipe: str
    target: str
    problem: RookeryError


@dataclass(slots=True)
class BuildState:
    """A build in the making. `failed` are resources whose problems have been told, or that stand on such."""

    project: Project
    workspace: str
    analyser: Analyser
    composer: Composer
    problems: Collector = field(default_factory=Collector)
    failed: set[str] = field(default_factory=set)
    warnings: list[RookeryError] = field(default_factory=list)
    relations: dict[str, Relation] = field(default_factory=dict)
    datasources: dict[str, Datasource] = field(default_factory=dict)
    pipes: dict[str, CompiledPipe] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    outputs: dict[str, tuple[Column, ...]] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    """Whose rows pipes bring into datasources without a tenant column."""
    tolerated: frozenset[str] | None = frozenset()
    """Pipes that may share tenants' rows undeclared, since they are deployed like this; None for all pipes."""
    undeclared: list[Undeclared] = field(default_factory=list)
    doubted: set[str] = field(default_factory=set)
    """Pipes with warnings about sample values; pipes that read them repeat none."""


def scratch_table(state: BuildState, name: str) -> Table:
    """A datasource's empty table to analyse over."""
    return scratch_shape(state)(state.datasources[name])


def scratch_shape(state: BuildState) -> Shape:
    """What makes the empty table of a datasource in the workspace's own database."""
    return lambda source: storage.workspace_table(source, scratch_database(state.workspace))


def datasources_of(state: BuildState, name: str, seen: set[str]) -> set[str]:
    """Datasources that a pipe reads, itself or through other pipes."""
    found: set[str] = set()
    for read in state.pipes[name].reads:
        if read in state.relations:
            found.add(read)
        elif read in state.pipes and read not in seen:
            found |= datasources_of(state, read, seen | {read})
    return found
