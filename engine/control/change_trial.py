"""Tries the column changes of a plan in the scratch database, and conversions on the existing rows, so that a change
that the engine refuses stops a push before it begins.
"""

from __future__ import annotations

from engine.compiler.build import Build
from engine.compiler.refused_definitions import short_message
from engine.errors import CHANGE_REFUSED, Problems, RookeryError
from engine.plan.conversions import conversion_error
from engine.plan.steps import AddColumn, ChangeClause, ChangeColumn, DropColumn, Plan
from engine.warehouse.catalog import read_schema
from engine.workspace.trial import Refusal, refused_changes
from engine.workspace.workspace import Workspace


def check_changes(workspace: Workspace, plan: Plan, compiled: Build) -> None:
    """Raise Problems (RK2030) if the engine would refuse one of the plan's changes halfway through."""
    altered = [s for s in plan.steps if isinstance(s, AddColumn | ChangeColumn | DropColumn | ChangeClause)]
    if not altered:
        return
    live = read_schema(workspace.warehouse, workspace.name, {s.name.database for s in altered})
    problems = [_problem(r, compiled) for r in refused_changes(altered, live, workspace.analyser)]
    if problems:
        raise Problems(problems)


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
