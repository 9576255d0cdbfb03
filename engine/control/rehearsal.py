"""Rehearses a plan: runs the queries that will refill recreated tables, before the plan drops anything."""

from __future__ import annotations

from engine.errors import STILL_FAILING, RookeryError
from engine.fanout.failing_tenants import find_failure_on_history
from engine.plan.backfill_delivery import MORE_MEMORY
from engine.plan.steps import AddColumn, ChangeColumn, CreateTable, CreateView, DropColumn, DropTable, Plan
from engine.warehouse.errors import exceeds_own_memory, sentence
from engine.workspace.workspace import Workspace


def rehearse(workspace: Workspace, plan: Plan) -> None:
    """Run the queries that will fill recreated tables over existing rows, before anything is dropped. Raises RK3012.

    A query that reads a recreated table cannot run yet. New tables need no rehearsal, because a failure would not
    lose rows.
    """
    dropped = {s.name for s in plan.steps if isinstance(s, DropTable)}
    targets = {s.table.name: s.table for s in plan.steps if isinstance(s, CreateTable)}
    altered = any(isinstance(s, AddColumn | ChangeColumn | DropColumn) for s in plan.steps)
    if altered or targets.keys() - dropped:
        # The queries may read columns or tables that this plan has yet to create.
        return
    for step in plan.steps:
        if isinstance(step, CreateView) and step.view.target in dropped and step.view.source not in dropped:
            exc = find_failure_on_history(workspace, step.view, targets.get(step.view.target))
            if exc is not None:
                raise _refusal(step, exc) from exc


def _refusal(step: CreateView, exc: RookeryError) -> RookeryError:
    """RK3012 for a view whose query fails on existing rows."""
    failing = f"`{step.view.name}` would fail on existing rows, so nothing was changed"
    reason = exc.detail or exc.message
    more = f"; {MORE_MEMORY}" if exceeds_own_memory(exc) else ""
    return RookeryError(
        STILL_FAILING,
        f"{failing}: {sentence(reason)}",
        hint=f"change the pipe `{step.resource}` so that it accepts these rows{more}",
        detail=reason,
        public=failing,
    )
