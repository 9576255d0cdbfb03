"""Push: deploy files. Prepare a proposal, permit its losses, rehearse its queries, execute its plan, report.

Deployed files are stored in the registry, one row per resource. A push merges the sent files over them: a resource
that is absent from a checkout stays deployed, unless `prune` is set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from engine.compiler.build import Build
from engine.compiler.diagnostics import compile_all
from engine.compiler.views import workspace_schema
from engine.control.change_trial import check_changes, check_conversions
from engine.control.ids import check_ids
from engine.control.kept_targets import check_targets_are_kept, pipes_that_continue, warn_of_unchanged
from engine.control.planning import (
    PlanOptions,
    apply_plan,
    broken_views,
    desired_schema,
    permit,
    plan_for,
    plan_for_workspace,
)
from engine.control.push_warnings import deferred, expired_rows, still_broken, unknown_allowances
from engine.control.pushed_files import merge, tolerated
from engine.control.rehearsal import rehearse
from engine.control.text_diff import unified
from engine.control.tokens import grant_declared
from engine.control.unfinished_history import undelivered_error
from engine.control.unfinished_tenants import unfinished_tenants_of
from engine.errors import RookeryError
from engine.fanout.modes import mode_changes, reconcile_modes
from engine.fanout.router import router_of
from engine.fanout.suspension_records import forget_repaired
from engine.observe import events
from engine.plan.conversions import undo_failed_conversions
from engine.plan.coverage import Coverage
from engine.plan.progress import Progress, silent
from engine.plan.steps import Plan
from engine.plan.summary import effects
from engine.warehouse.catalog import read_schema
from engine.workspace.journal import RegistryJournal
from engine.workspace.snapshot import DeployedFile, Snapshot, parse_sources
from engine.workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class PushOptions:
    """What a push selects, and what it may lose."""

    dry_run: bool = False
    """Whether the push ends with the plan."""
    prune: bool = False
    """Whether deployed resources that no sent file declares are removed."""
    allow: frozenset[str] = frozenset()
    """Resources that destructive steps may change."""
    only: frozenset[str] = frozenset()
    """Resources of the sent files that are pushed; all when empty."""
    with_dependencies: bool = False
    """Whether `only` also selects the dependencies of its resources."""
    skip_backfill: frozenset[str] = frozenset()
    """Materialized pipes whose targets are kept although their query has changed."""


@dataclass(frozen=True, slots=True)
class Change:
    """A resource whose file differs from the deployed one."""

    name: str
    kind: str
    """`datasource` or `pipe`."""
    what: Literal["created", "changed", "removed"]
    file: str
    diff: str = ""
    """For a changed resource, a unified diff of the deployed file and the pushed one."""


@dataclass(frozen=True, slots=True)
class PushResult:
    """What a push did, or, as a dry run, would do."""

    plan: Plan
    changes: tuple[Change, ...]
    endpoints: tuple[str, ...] = ()
    """All endpoints of the workspace after the push."""
    warnings: tuple[RookeryError, ...] = ()
    applied: bool = False
    """False for a dry run."""
    delivered: Mapping[str, int] = field(default_factory=dict)
    """Ranges of history that were delivered, by view."""
    fanout: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Landing datasources whose fan-out mode changes: from which to which."""
    undeclared: tuple[str, ...] = ()
    """Deployed resources that no file of a complete push declares; they stay deployed."""
    allowed: frozenset[str] = frozenset()
    """Resources that destructive steps may change."""

    @property
    def empty(self) -> bool:
        return not self.plan and not self.changes

    def as_dict(self, *, public: bool = False) -> dict[str, Any]:
        """The response of `POST /v0/push`; with `public`, for callers who may not read all rows."""
        return {
            "changes": [asdict(c) for c in self.changes],
            "steps": self.plan.as_list(),
            "effects": [e.as_dict() for e in effects(self.plan)],
            "needs_permission": sorted(set(self.plan.destructive) - self.allowed),
            "fanout": [{"datasource": n, "from": a, "to": b} for n, (a, b) in sorted(self.fanout.items())],
            "endpoints": list(self.endpoints),
            "warnings": [w.as_dict(public=public) for w in self.warnings],
            "undeclared": list(self.undeclared),
            "applied": self.applied,
        }


@dataclass(frozen=True, slots=True)
class _Compiled:
    """The merged files and their compiled build."""

    files: Mapping[str, DeployedFile]
    """By resource: the sent files over the deployed ones."""
    build: Build
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class _Proposal:
    """What a push is about to do. `result` is what a dry run answers."""

    snapshot: Snapshot
    """The workspace that the plan was compared with."""
    compiled: _Compiled
    result: PushResult

    @property
    def plan(self) -> Plan:
        return self.result.plan

    def with_warnings(self, warnings: Iterable[RookeryError]) -> _Proposal:
        return replace(self, result=replace(self.result, warnings=(*self.result.warnings, *warnings)))


def push(
    workspace: Workspace,
    files: Mapping[str, DeployedFile],
    options: PushOptions = PushOptions(),
    progress: Progress = silent,
    announce: Callable[[PushResult], None] = lambda _: None,
) -> PushResult:
    """Make the workspace what the given files, merged over the deployed ones, declare.

    `announce` is called with what the push is about to do, before anything is done or refused.
    Raises Problems for everything that is wrong in the files, RK3001 for losses that are not allowed, RK2030 for
    rows that cannot be converted, RK3012 for a query that fails on existing rows, and RK3010 when shared history
    cannot be delivered.
    """
    with workspace.changes:
        proposal = _prepare(workspace, files, options)
        if options.dry_run:
            return proposal.result
        announce(proposal.result)
        permit(proposal.plan, options.allow)
        # Counted before the views are created again, because the records of what they have missed are deleted then.
        proposal = proposal.with_warnings(expired_rows(workspace, proposal.plan))
        check_conversions(workspace, proposal.plan, proposal.compiled.build)
        rehearse(workspace, proposal.plan)
        delivered = _execute(workspace, proposal, progress)
        # The push may have corrected what stopped them.
        unfinished_tenants_of(workspace).complete()
        changes = proposal.result.changes
        events.note(
            "pushed",
            **{what: [c.name for c in changes if c.what == what] for what in ("created", "changed", "removed")},
            steps=len(proposal.plan.as_list()),
        )
        return _report(workspace, proposal, delivered)


def _prepare(workspace: Workspace, files: Mapping[str, DeployedFile], options: PushOptions) -> _Proposal:
    """Compile the merged files and plan the difference. Nothing is lost in this phase; a dry run changes nothing."""
    # Another process may have pushed: the merge must start from the files that are deployed now.
    snapshot = workspace.refresh()
    compiled = _compile(workspace, snapshot, files, options)
    if not options.dry_run:
        # An interrupted change to a fan-out mode is completed first. The plan depends on the current modes, which
        # determine which nests have views on landing.
        snapshot = reconcile_modes(workspace, snapshot.build)
        undo_failed_conversions(workspace.warehouse, workspace.name)
    build = compiled.build
    continued = pipes_that_continue(snapshot, build, options.skip_backfill)
    broken = broken_views(workspace, snapshot, build)
    plan = _plan(workspace, snapshot, compiled, PlanOptions(options.prune, broken, continued))
    plan, refused = check_changes(workspace, plan, build, _changed_datasources(compiled))
    check_targets_are_kept(plan, build, continued)
    warnings = (
        *build.warnings,
        *refused,
        *warn_of_unchanged(options.skip_backfill - continued),
        *unknown_allowances(plan, options.allow, snapshot.build, build),
        *(still_broken(view, reason) for view, reason in broken.items()),
    )
    whole_checkout = not options.only and not options.prune
    result = PushResult(
        plan,
        compiled.changes,
        tuple(sorted(build.endpoints)),
        warnings,
        fanout=mode_changes(workspace, build),
        undeclared=tuple(sorted(snapshot.sources.keys() - files.keys())) if whole_checkout else (),
        allowed=options.allow,
    )
    return _Proposal(snapshot, compiled, result)


def _compile(
    workspace: Workspace, snapshot: Snapshot, sent: Mapping[str, DeployedFile], options: PushOptions
) -> _Compiled:
    """Merge the sent files over the deployed ones and compile them. Raises Problems with everything that is wrong."""
    files = merge(snapshot, sent, only=options.only, with_dependencies=options.with_dependencies, prune=options.prune)
    project = parse_sources(files)
    unchanged = files == snapshot.sources
    accepted = tolerated(snapshot, files)
    build = compile_all(
        project, lambda excluded: snapshot.build if unchanged else workspace.compile(project, excluded, accepted)
    )
    check_ids(build, snapshot.tenants)
    return _Compiled(files, build, _changes(snapshot, files, build))


def _plan(workspace: Workspace, snapshot: Snapshot, compiled: _Compiled, options: PlanOptions) -> Plan:
    """Plan the difference. If only endpoints change, the nests, of which there can be thousands, are not compared."""
    if compiled.changes and not options.prune and _only_endpoints(compiled.changes, snapshot, compiled.build):
        return plan_for_workspace(workspace, snapshot, compiled.build, options.broken)
    return plan_for(workspace, snapshot, compiled.build, options)


def _changes(snapshot: Snapshot, files: Mapping[str, DeployedFile], build: Build) -> tuple[Change, ...]:
    """The resources whose files differ from the deployed ones, by name."""

    def kind(name: str) -> str:
        return "datasource" if name in build.datasources or name in snapshot.build.datasources else "pipe"

    changes = []
    for name in sorted(set(files) | set(snapshot.sources)):
        before, after = snapshot.sources.get(name), files.get(name)
        if before is None:
            changes.append(Change(name, kind(name), "created", files[name].file))
        elif after is None:
            changes.append(Change(name, kind(name), "removed", before.file))
        elif before.text != after.text:
            diff = unified(before.text, after.text, after.file)
            changes.append(Change(name, kind(name), "changed", after.file, diff))
    return tuple(changes)


def _changed_datasources(compiled: _Compiled) -> set[str]:
    """The datasources whose files change, and the targets of the pipes whose files change."""
    names = {c.name for c in compiled.changes}
    changed = (pipe for name, pipe in compiled.build.pipes.items() if name in names)
    return names | {pipe.target.name for pipe in changed if pipe.target}


def _only_endpoints(changes: Iterable[Change], snapshot: Snapshot, build: Build) -> bool:
    """Whether no changed resource fills a table or is read by a pipe that does, before or after the push."""
    filling = snapshot.build.filling_pipes() | build.filling_pipes()
    return all(c.kind == "pipe" and c.name not in filling for c in changes)


def _execute(workspace: Workspace, proposal: _Proposal, progress: Progress) -> dict[str, int]:
    """Apply the plan, record the files and refresh the running workspace. Returns the number of delivered ranges by
    view.

    A kill at any point leaves a workspace that the next push completes: the files are recorded after the plan is
    applied, so the next plan contains whatever is missing.
    """
    if proposal.plan:
        _record_coverage(workspace, proposal.snapshot)
    router = router_of(workspace)
    # Read before the push: these tenants cannot catch up, so the push must not wait for them.
    failing = router.failing_tenants()
    delivered = apply_plan(workspace, proposal.plan, progress)
    workspace.prepare(proposal.compiled.files, proposal.compiled.build)
    _record_files(workspace, proposal)
    grant_declared(workspace, proposal.compiled.build.project)
    # Requests see the new build from here on.
    snapshot = workspace.refresh()
    # The new build may require other fan-out modes, which need the tables that the plan has just created.
    reconcile_modes(workspace, snapshot.build)
    if snapshot.suspended:
        forget_repaired(workspace, desired_schema(snapshot.build, snapshot))
    # Tables that refused rows may have been rebuilt by the plan.
    router.retry_now()
    nests = [t for t, row in snapshot.tenants.items() if row.placement == "tables" and t not in failing]
    router.wait_for(nests, progress)
    return delivered


def _record_coverage(workspace: Workspace, snapshot: Snapshot) -> None:
    """Record which blocks the shared targets contain, before the plan removes rows from the sources.

    A shorter TTL, for example, removes source rows; afterwards it would not be known that the targets contain them.
    """
    declared = workspace_schema(snapshot.build).views
    if not declared:
        return
    live = read_schema(workspace.warehouse, workspace.name, [workspace.name])
    views = [v for n, v in declared.items() if n in live.views]
    Coverage(workspace.warehouse, workspace.registry, live).renew(views)


def _record_files(workspace: Workspace, proposal: _Proposal) -> None:
    """Record the files as deployed. A restart compiles them."""
    files, deployed = proposal.compiled.files, proposal.snapshot.sources
    changed = {n: {"text": f.text, "file": f.file} for n, f in files.items() if deployed.get(n) != f}
    # Done before others are removed: after a kill at this point, there is one file too many, but none is missing.
    workspace.registry.write("resource", changed)
    workspace.registry.remove("resource", sorted(set(deployed) - set(files)))


def _report(workspace: Workspace, proposal: _Proposal, delivered: Mapping[str, int]) -> PushResult:
    """The result of an applied push. Raises RK3010 if shared history is outstanding.

    History of a single tenant is only a warning: one tenant's rows must not fail a push that serves all of them.
    """
    outstanding = RegistryJournal(workspace.registry).outstanding()
    shared = undelivered_error(h for h in outstanding if h.tenant is None)
    if shared is not None:
        raise shared
    own = undelivered_error(h for h in outstanding if h.tenant is not None)
    warnings = (*proposal.result.warnings, *([own] if own else []), *deferred(workspace, proposal.plan))
    return replace(proposal.result, applied=True, delivered=delivered, warnings=warnings)
