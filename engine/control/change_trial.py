"""Tries the column changes of a plan in the scratch database, and conversions on the existing rows, so that a change
that the engine refuses stops a push before it begins.
"""

from __future__ import annotations

from collections.abc import Collection

from engine.compiler.build import Build
from engine.compiler.refused_definitions import short_message
from engine.errors import CHANGE_REFUSED, Problems, RookeryError
from engine.plan.conversions import conversion_error
from engine.plan.steps import AddColumn, ChangeClause, ChangeColumn, DropColumn, Plan
from engine.warehouse.catalog import read_schema
from engine.workspace.trial import Refusal, refused_changes
from engine.workspace.workspace import Workspace


def check_changes(
    workspace: Workspace, plan: Plan, compiled: Build, changed: Collection[str]
) -> tuple[Plan, list[RookeryError]]:
    """Raise Problems (RK2030) if the engine would refuse one of the plan's changes halfway through.

    A refused setting of a datasource that is not in `changed` is a warning instead: an earlier version of rookery
    deployed the file without changing the table. Returns the plan without such changes, and the warnings.
    """
    altered = [s for s in plan.steps if isinstance(s, AddColumn | ChangeColumn | DropColumn | ChangeClause)]
    if not altered:
        return plan, []
    live = read_schema(workspace.warehouse, workspace.name, {s.name.database for s in altered})
    warnings: list[RookeryError] = []
    while refused := list(refused_changes(altered, live, workspace.analyser)):
        known = [r for r in refused if isinstance(r.step, ChangeClause) and r.step.resource not in changed]
        if len(known) < len(refused):
            raise Problems([_problem(r, compiled) for r in refused if r not in known])
        warnings += [_problem(r, compiled) for r in known]
        # Only the first refused change to each table is known, and only for one of several equal nests.
        left_out = {(r.step.resource, r.step.reason) for r in known}
        altered = [s for s in altered if (s.resource, s.reason) not in left_out]
        plan = Plan(tuple(s for s in plan.steps if (s.resource, s.reason) not in left_out))
    return plan, warnings


def check_conversions(workspace: Workspace, plan: Plan, compiled: Build) -> None:
    """Raise Problems (RK2030) if existing rows cannot be converted to the plan's new types. Reads these columns."""
    problems = []
    for step in plan.steps:
        if isinstance(step, ChangeColumn) and step.previous is not None:
            error = conversion_error(step, workspace.warehouse)
            if error is not None:
                problems.append(_problem(Refusal(step, error), compiled))
    if problems:
        raise Problems(problems)


def _problem(refusal: Refusal, compiled: Build) -> RookeryError:
    step, error = refusal.step, refusal.error
    source = compiled.project.datasources.get(step.resource)
    column = source.column(step.column.name) if source and isinstance(step, AddColumn | ChangeColumn) else None
    change = f"column `{column.name}`" if column else step.reason
    refused = f"`{step.resource}` exists, and its table cannot be changed like this: {change}: "
    return RookeryError(
        CHANGE_REFUSED,
        refused + short_message(error),
        hint="keep the deployed definition, or declare a datasource with another name and move the rows there",
        place=column.place_of("type") if column else source.place if source else None,
        detail=error.detail,
        public=refused + error.public,
    )
