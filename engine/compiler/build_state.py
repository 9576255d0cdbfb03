"""The state that the compiler's passes share, and the interface to the engine that they use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from engine.compiler import storage
from engine.compiler.compose import Composer
from engine.compiler.definitions import Definer
from engine.compiler.expiry_check import ExpiryCheck
from engine.compiler.pipes import CompiledPipe
from engine.compiler.refused_definitions import TableFactory
from engine.compiler.scope import Relation
from engine.errors import Collector, RookeryError
from engine.project.datasource import Datasource
from engine.project.model import Project
from engine.schema import Column, Table
from engine.sql.row_origin import Origin
from engine.template.parameters import Value


def scratch_database(workspace: str) -> str:
    """The database in which pipes are analysed over empty tables."""
    return f"{workspace}_scratch"


class Analyser(Definer, Protocol):
    """What the compiler needs from an engine to analyze SQL."""

    def describe(self, sql: str, bindings: Mapping[str, Value], tables: Iterable[Table]) -> tuple[Column, ...]:
        """The output columns of a SELECT. Creates the empty `tables` that it reads in the scratch database."""
        ...


@dataclass(frozen=True, slots=True)
class Undeclared:
    """A deployed pipe that shares tenants' rows without a declaration. New pipes of this kind are refused."""

    pipe: str
    target: str
    problem: RookeryError


@dataclass(slots=True)
class BuildState:
    """A build while its passes run."""

    project: Project
    workspace: str
    analyser: Analyser
    composer: Composer
    problems: Collector = field(default_factory=Collector)
    """Everything that is wrong with the project."""
    failed: set[str] = field(default_factory=set)
    """Resources with reported problems, and resources that depend on these."""
    warnings: list[RookeryError] = field(default_factory=list)
    relations: dict[str, Relation] = field(default_factory=dict)
    """Datasources, and the targets that have been checked so far, by name."""
    datasources: dict[str, Datasource] = field(default_factory=dict)
    expiry_checks: dict[str, ExpiryCheck] = field(default_factory=dict)
    """Datasource → the condition for rows whose TTL does not overflow."""
    pipes: dict[str, CompiledPipe] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    """Resources in order of data flow."""
    outputs: dict[str, tuple[Column, ...]] = field(default_factory=dict)
    """Pipe → the output columns of its published node."""
    origins: dict[str, Origin] = field(default_factory=dict)
    """Datasource without a tenant column → whose rows the pipes store in it."""
    tolerated: frozenset[str] | None = frozenset()
    """Deployed resources that were accepted before a rule existed; see `KnownProblems`."""
    undeclared: list[Undeclared] = field(default_factory=list)
    """Tolerated pipes that share rows without a declaration."""
    doubted: set[str] = field(default_factory=set)
    """Pipes with warnings about sample values. Pipes that read them do not repeat the warnings."""


def scratch_table(state: BuildState, name: str) -> Table:
    """A datasource's empty table in the scratch database."""
    return scratch_shape(state)(state.datasources[name])


def scratch_shape(state: BuildState) -> TableFactory:
    """Returns a function that makes a datasource's empty table in the scratch database."""
    return lambda source: storage.workspace_table(source, scratch_database(state.workspace))


def datasources_of(state: BuildState, name: str, seen: set[str]) -> set[str]:
    """The datasources that a pipe reads, directly or through other pipes. `seen` guards against cycles."""
    datasources: set[str] = set()
    for read in state.pipes[name].reads:
        if read in state.relations:
            datasources.add(read)
        elif read in state.pipes and read not in seen:
            datasources |= datasources_of(state, read, seen | {read})
    return datasources
