"""What a push reports without failing: each warning is a `RookeryError` that is returned, not raised."""

from __future__ import annotations

from collections.abc import Iterator

from engine.compiler.build import Build
from engine.errors import MISSED_EXPIRED, STILL_FAILING, UNKNOWN_RESOURCE, VIEW_WAITS, RookeryError, did_you_mean
from engine.fanout.expiring import expired_rows as expired_by_view
from engine.plan.steps import CreateView, Plan
from engine.plurals import counted
from engine.schema import Name
from engine.workspace.journal import DEFERRED_KIND
from engine.workspace.workspace import Workspace


def still_broken(view: Name, reason: str) -> RookeryError:
    """RK3012: a suspended view would fail again, so the plan leaves it suspended."""
    return RookeryError(
        STILL_FAILING,
        f"`{view}` would fail again on the rows that it failed on, so its target stays unchanged",
        hint=(
            "change the pipe so that it accepts these rows, and push it "
            "again; `rookery fanout status` shows the error"
        ),
        detail=reason,
    )


def unknown_allowances(plan: Plan, allowed: frozenset[str], *builds: Build) -> Iterator[RookeryError]:
    """RK3007 for each allowed name that neither the plan nor a build has, which is probably a typo."""
    known = {s.resource for s in plan.steps} | {n for b in builds for n in (*b.relations, *b.pipes)}
    for name in sorted(allowed - known):
        yield RookeryError(
            UNKNOWN_RESOURCE,
            f"no resource is named `{name[:120]}`, so there is nothing to allow",
            hint=did_you_mean(name, known),
        )


def expired_rows(workspace: Workspace, plan: Plan) -> Iterator[RookeryError]:
    """Rows that suspended views have missed permanently, for the views that the plan creates again."""
    views = {s.view.name for s in plan.steps if isinstance(s, CreateView) and s.missing}
    for (view, tenant), rows in sorted(expired_by_view(workspace, views).items(), key=str) if views else ():
        owner = f" of tenant `{tenant}`" if tenant is not None else ", or more,"
        yield RookeryError(
            MISSED_EXPIRED,
            f"{counted(rows, 'row')}{owner} that `{view}` has missed cannot be delivered: no longer in its source",
            hint="all other rows that it has missed are delivered; send these rows again if you still have them",
        )


def deferred(workspace: Workspace, plan: Plan) -> Iterator[RookeryError]:
    """Views of the plan whose creation waits until their tenant has received all of its rows."""
    planned = {str(s.view.name) for s in plan.steps if isinstance(s, CreateView)}
    for view, note in sorted(workspace.registry.read(DEFERRED_KIND).items()) if planned else ():
        if view in planned:
            yield RookeryError(
                VIEW_WAITS,
                f"`{view}` is not created yet: tenant `{note['tenant']}` has not received all of its rows, and the "
                "view would deliver them twice",
                hint="it is created automatically when the tenant has caught up; `rookery fanout status` shows what "
                "delays the tenant",
            )
