"""Examining the live workspace: what is not as it must be, with a name, a reason and a remedy. Changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from engine.control import deferred_views
from engine.control.doctor import checks, tenant_copies
from engine.control.doctor.findings import WARNING, Context, Finding, error
from engine.control.planning import desired_schema
from engine.control.push import broken_views, plan_for
from engine.errors import FOREIGN_OBJECT, RookeryError
from engine.plan.steps import CreateView
from engine.warehouse.catalog import read_schema
from engine.workspace.journal import DEFERRED_KIND
from engine.workspace.workspace import Workspace

CHANGE_TIMEOUT_SECONDS = 5.0
"""Seconds to wait for a change that is under way; what it may have half done is not examined."""
MAX_LISTED_STEPS = 20
"""Steps of a plan that are told one by one."""

_READING = re.compile(r"while reading from part (?:\S*/)?([^/\s]{1,300})/ in table ([^\s(]{1,300})")
"""What the engine says of the part that it could not read."""

Check = Callable[[Context], Iterator[Finding]]

AT_ANY_TIME: dict[str, Check] = {
    "disk": checks.disk,
    "damaged-part": checks.damaged,
    "batch-in-doubt": checks.doubtful,
    "landing-layout": checks.landing_layout,
    "landing-ttl": checks.landing_ttl,
    "nest-window": checks.nest_window,
    "nest-constraint": checks.nest_constraint,
    "detached-parts": checks.detached_parts,
    "attached-parts": checks.attached_parts,
    "many-parts": checks.many_parts,
    "foreign-view": checks.foreign_views,
    "cursor": checks.cursors,
    "stray": checks.lagging,
    "suspended-view": checks.suspended_views,
    "deferred-view": deferred_views.deferred_views,
    "expiring-rows": checks.expiring_rows,
    "quarantine": checks.quarantined,
    "deployed-files": checks.deployed_files,
    "undeclared-share": checks.undeclared_shares,
    "pooled-only": checks.pooled_only,
}
WITHOUT_CHANGES: dict[str, Check] = {
    "orphan": checks.orphans,
    "unknown-nest": checks.unknown_nests,
    "unfinished-tenant": checks.unfinished_tenants,
    "unfinished-history": checks.unfinished_history,
}
DEEP: dict[str, Check] = {
    "foreign-rows": tenant_copies.foreign_rows,
    "copy": tenant_copies.copies,
    "derived": tenant_copies.derived,
}


@dataclass(frozen=True, slots=True)
class Report:
    """What was looked at and what was found."""

    checks: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing but warnings was found."""
        return all(f.level == WARNING for f in self.findings)

    def as_dict(self) -> dict[str, Any]:
        found = [f.as_dict() for f in self.findings]
        return {"healthy": self.healthy, "checks": list(self.checks), "findings": found}


def examine(workspace: Workspace, *, deep: bool = False) -> Report:
    """Examine the workspace; `deep` also reads the rows. Errors come before warnings."""
    findings: list[Finding] = []
    checks: list[str] = []

    def run(some: dict[str, Check], patient: Context) -> None:
        for name, check in some.items():
            checks.append(name)
            try:
                findings.extend(check(patient))
            except RookeryError as exc:
                # What is broken must not hide what else is.
                findings.append(error(name, workspace.name, f"this check failed: {exc.message}", _where(exc)))

    if workspace.changes.acquire(timeout=CHANGE_TIMEOUT_SECONDS):
        try:
            patient = _patient(workspace)
            run(WITHOUT_CHANGES, patient)
            run({"drift": _drift}, patient)
        finally:
            workspace.changes.release()
    else:
        patient = _patient(workspace)
        why = f"a change is under way; not examined: {', '.join((*WITHOUT_CHANGES, 'drift'))}"
        findings.append(Finding("busy", WARNING, workspace.name, why, "run it again when the change is done"))
    run(AT_ANY_TIME, patient)
    if deep:
        run(DEEP, patient)
    return Report(tuple(checks), tuple(sorted(findings, key=lambda f: f.level == WARNING)))


def _where(exc: RookeryError) -> str | None:
    """Which table could not be read, as far as the engine says."""
    found = _READING.search(exc.detail or "")
    return f"part {found[1]} of table {found[2]} cannot be read" if found else exc.hint


def _patient(workspace: Workspace) -> Context:
    snapshot = workspace.refresh()
    live = read_schema(workspace.warehouse, workspace.name)
    return Context(workspace, snapshot, live, desired_schema(snapshot.build, snapshot))


def _drift(patient: Context) -> Iterator[Finding]:
    """What a push of nothing would do."""
    try:
        broken = broken_views(patient.workspace, patient.snapshot, patient.snapshot.build)
        steps = plan_for(patient.workspace, patient.snapshot, patient.snapshot.build, broken=broken).steps
    except RookeryError as exc:
        if exc.code is not FOREIGN_OBJECT:
            raise
        yield error("drift", patient.workspace.name, exc.message, exc.hint)
        return
    # Views that wait are findings of their own.
    waiting = patient.workspace.registry.read(DEFERRED_KIND)
    steps = tuple(s for s in steps if not (isinstance(s, CreateView) and str(s.view.name) in waiting))
    for step in steps[:MAX_LISTED_STEPS]:
        why = f"{step.action} is called for: {step.reason}"
        yield error("drift", step.subject, why, "rookery fanout repair")
    if len(steps) > MAX_LISTED_STEPS:
        yield error("drift", patient.workspace.name, f"{len(steps) - MAX_LISTED_STEPS} more steps", "rookery plan")
