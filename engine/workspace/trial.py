"""Tries changes to tables on empty copies before any step of a plan is applied.

The engine refuses some changes only when they are made: another type of a key column, a conversion that does not
exist, a setting that cannot change. In the middle of a plan, such a refusal would leave the plan half applied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from engine.errors import RookeryError
from engine.plan.alteration_groups import mentioned, statement, statements
from engine.plan.steps import AddColumn, Alteration, ChangeColumn, DropColumn, Step
from engine.schema import Name, Schema
from engine.workspace.analyser import Analyser


@dataclass(frozen=True, slots=True)
class Refusal:
    """A step that the engine would refuse, and its error."""

    step: Alteration
    error: RookeryError


def refused_changes(steps: Iterable[Step], live: Schema, analyser: Analyser) -> Iterator[Refusal]:
    """The first refused change to each table. If many tenants have equal tables, only one of them is tried.

    Raises errors of the database that do not concern the change.
    """
    by_table: dict[Name, list[Alteration]] = {}
    for step in steps:
        if isinstance(step, Alteration) and step.name in live.tables:
            by_table.setdefault(step.name, []).append(step)
    seen: set[tuple[str, bool]] = set()
    for name, alterations in by_table.items():
        shape = (name.name, alterations[0].tenant is None)
        # Nests have the same tables, and thousands of them would take minutes.
        if shape in seen:
            continue
        seen.add(shape)
        # Changes are tried in the order in which they are applied: columns are dropped last.
        ordered = [*statements(sorted(alterations, key=lambda s: isinstance(s, DropColumn)))]
        refused = analyser.first_refused(live.tables[name], [partial(statement, s) for s in ordered])
        if refused is not None:
            position, error = refused
            yield Refusal(_cause(ordered[position], error), error)


def _cause(steps: Sequence[Alteration], error: RookeryError) -> Alteration:
    """The change of a group that an error is about, as far as its text shows."""
    columns = {s.column.name: s for s in steps if isinstance(s, AddColumn | ChangeColumn)}
    return next((columns[name] for name in columns if mentioned([name], error.message)), steps[0])
