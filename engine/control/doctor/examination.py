"""Examining the live workspace: runs the checks and collects findings. Changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from engine.control.doctor import deep_checks, delivery_checks, deployment_checks, storage_checks
from engine.control.doctor.findings import WARNING, Context, Finding, error
from engine.control.planning import PlanOptions, broken_views, desired_schema, plan_for
from engine.errors import FOREIGN_OBJECT, RookeryError
from engine.plan.progress import Progress, silent
from engine.plan.steps import CreateView
from engine.warehouse.catalog import read_schema
from engine.workspace.journal import DEFERRED_KIND
from engine.workspace.workspace import Workspace

CHANGE_TIMEOUT_SECONDS = 5.0
"""Seconds to wait for a running change. After that, checks that it could affect are skipped."""
MAX_LISTED_STEPS = 20
"""Maximum number of a plan's steps that become separate findings; the others are only counted."""

_READING = re.compile(r"while reading from part (?:\S*/)?([^/\s]{1,300})/ in table ([^\s(]{1,300})")
"""Where the engine's error names the part that it could not read."""

Check = Callable[[Context], Iterator[Finding]]
"""A check. A check's docstring states what is true in a healthy workspace."""

AT_ANY_TIME: dict[str, Check] = {
    "disk": storage_checks.disk,
    "damaged-part": storage_checks.damaged,
    "batch-in-doubt": delivery_checks.uncertain_batches,
    "landing-layout": storage_checks.landing_layout,
    "landing-ttl": storage_checks.landing_ttl,
    "nest-window": storage_checks.nest_window,
    "nest-constraint": storage_checks.nest_constraint,
    "detached-parts": storage_checks.detached_parts,
    "attached-parts": storage_checks.attached_parts,
    "many-parts": storage_checks.many_parts,
    "foreign-view": storage_checks.foreign_views,
    "cursor": delivery_checks.offsets,
    "stray": delivery_checks.lagging_tenants,
    "suspended-view": delivery_checks.suspended_views,
    "deferred-view": delivery_checks.deferred_views,
    "expiring-rows": delivery_checks.expiring_rows,
    "quarantine": delivery_checks.quarantined,
    "deployed-files": deployment_checks.deployed_files,
    "undeclared-share": deployment_checks.undeclared_shares,
    "pooled-only": deployment_checks.pooled_only,
}
"""Checks whose results a running change does not affect."""
WITHOUT_CHANGES: dict[str, Check] = {
    "orphan": deployment_checks.orphans,
    "unknown-nest": deployment_checks.unknown_nests,
    "unfinished-tenant": deployment_checks.unfinished_tenants,
    "failed-conversion": storage_checks.failed_conversion,
    "unfinished-history": delivery_checks.unfinished_history,
}
"""Checks of states that every change passes through; they run with `Workspace.changes` held."""
DEEP: dict[str, Check] = {
    "foreign-rows": deep_checks.foreign_rows,
    "copy": deep_checks.copies,
    "time-zone": deep_checks.time_zone,
    "derived": deep_checks.derived,
}
"""Checks that read rows."""


@dataclass(frozen=True, slots=True)
class Report:
    """The result of an examination."""

    checks: tuple[str, ...]
    """Names of the checks that ran."""
    findings: tuple[Finding, ...]
    """Errors first."""

    @property
    def healthy(self) -> bool:
        """Whether there are no errors."""
        return all(f.level == WARNING for f in self.findings)

    def as_dict(self) -> dict[str, Any]:
        findings = [f.as_dict() for f in self.findings]
        return {"healthy": self.healthy, "checks": list(self.checks), "findings": findings}


def examine(workspace: Workspace, *, deep: bool = False, progress: Progress = silent) -> Report:
    """Examine the workspace; `deep` also reads the rows. Errors come before warnings."""
    findings: list[Finding] = []
    failures: list[Finding] = []
    names: list[str] = []
    total = len(WITHOUT_CHANGES) + 1 + len(AT_ANY_TIME) + (len(DEEP) if deep else 0)

    def report_table(done: int, what: str, number: int, tables: int) -> None:
        """Name the table within a check, and how many there are."""
        progress(f"{what} ({number + 1:,} of {tables:,})", done, total)

    def run(checks: dict[str, Check], context: Context) -> None:
        for name, check in checks.items():
            progress(f"check {name}", len(names), total)
            names.append(name)
            examined = replace(context, progress=partial(report_table, len(names) - 1), found=tuple(findings))
            try:
                findings.extend(check(examined))
            except RookeryError as exc:
                # A check that fails must not hide the findings of the others.
                failures.append(error(name, workspace.name, f"this check failed: {exc.message}", _where(exc)))

    if workspace.changes.acquire(timeout=CHANGE_TIMEOUT_SECONDS):
        try:
            context = context_of(workspace)
            run(WITHOUT_CHANGES, context)
            run({"drift": _drift}, context)
        finally:
            workspace.changes.release()
    else:
        context = context_of(workspace)
        why = f"a change is running; skipped checks: {', '.join((*WITHOUT_CHANGES, 'drift'))}"
        findings.append(
            Finding("busy", WARNING, workspace.name, why, "run `rookery doctor` again when the change is complete")
        )
    run(AT_ANY_TIME, context)
    if deep:
        run(DEEP, context)
    return Report(tuple(names), tuple(sorted([*findings, *failures], key=lambda f: f.level == WARNING)))


def _where(exc: RookeryError) -> str | None:
    """Which part could not be read, if the engine names it; the error's hint otherwise."""
    match = _READING.search(exc.detail or "")
    return f"part {match[1]} of table {match[2]} cannot be read" if match else exc.hint


def context_of(workspace: Workspace) -> Context:
    """What should exist in the workspace now, and what actually exists."""
    snapshot = workspace.refresh()
    live = read_schema(workspace.warehouse, workspace.name)
    return Context(workspace, snapshot, live, desired_schema(snapshot.build, snapshot))


def _drift(context: Context) -> Iterator[Finding]:
    """A push of the deployed files has nothing to do."""
    build = context.snapshot.build
    try:
        broken = broken_views(context.workspace, context.snapshot, build)
        plan = plan_for(context.workspace, context.snapshot, build, PlanOptions(broken=broken))
    except RookeryError as exc:
        if exc.code is not FOREIGN_OBJECT:
            raise
        yield error("drift", context.workspace.name, exc.message, exc.hint)
        return
    # Deferred views are reported as separate findings.
    waiting = context.workspace.registry.read(DEFERRED_KIND)
    steps = [s for s in plan.steps if not (isinstance(s, CreateView) and str(s.view.name) in waiting)]
    for step in steps[:MAX_LISTED_STEPS]:
        yield error("drift", step.subject, f"{step.action} is needed: {step.reason}", "rookery fanout repair")
    if len(steps) > MAX_LISTED_STEPS:
        yield error("drift", context.workspace.name, f"{len(steps) - MAX_LISTED_STEPS} more steps", "rookery plan")
