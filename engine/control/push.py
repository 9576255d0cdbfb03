"""Push: files → checked project → build → plan → apply → recorded sources.

Deployed sources are kept one row per resource. A push merges what it is given; nothing is removed because it is
absent from a checkout, unless asked for (`prune`).
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from engine.compiler.build import Build
from engine.compiler.compose import Verifier
from engine.compiler.diagnostics import compile_all
from engine.compiler.pipes import compile_pipe
from engine.compiler.views import nest_schema, workspace_schema
from engine.control.change_trial import check_changes
from engine.control.ids import check_ids
from engine.control.planning import desired_schema
from engine.control.recovery import resume, undelivered
from engine.control.tokens import grant_declared
from engine.errors import (
    BAD_VALUE,
    DESTRUCTIVE,
    DUPLICATE_NAME,
    FOREIGN_OBJECT,
    KEEPS_NOTHING,
    MISSED_EXPIRED,
    STILL_FAILING,
    UNKNOWN_RESOURCE,
    VIEW_WAITS,
    RookeryError,
)
from engine.fanout.failing_tenants import find_failure
from engine.fanout.missing_rows import expired_rows, repairable
from engine.fanout.modes import mode_changes, reconcile_modes
from engine.fanout.router import router_of
from engine.fanout.suspended_views import forget_repaired, record_replacement, still_failing, suspended
from engine.plan.apply import ApplyContext, apply
from engine.plan.backfill import Progress, silent
from engine.plan.coverage import Coverage
from engine.plan.diff import CHANGED, DiffOptions, diff, with_feeders
from engine.plan.steps import AddColumn, ChangeColumn, CreateTable, CreateView, DropColumn, DropTable, Plan, Step
from engine.project.model import Project
from engine.schema import Name, Schema
from engine.warehouse.catalog import foreign_objects, read_schema
from engine.warehouse.errors import sentence
from engine.workspace.journal import DEFERRED_KIND, RegistryJournal
from engine.workspace.snapshot import DeployedFile, Snapshot, parse_sources
from engine.workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class PushOptions:
    """How to push. `allow` names resources that may be changed destructively; `only` selects resources of the given
    sources (all when empty) and `with_dependencies` adds what they need."""

    dry_run: bool = False
    prune: bool = False
    allow: frozenset[str] = frozenset()
    only: frozenset[str] = frozenset()
    with_dependencies: bool = False
    skip_backfill: frozenset[str] = frozenset()
    """Materialized pipes whose targets are kept although their query has changed."""


@dataclass(frozen=True, slots=True)
class Change:
    """A resource whose source changes with the push: `created`, `changed` or `removed`."""

    name: str
    kind: str
    what: str


@dataclass(frozen=True, slots=True)
class PushResult:
    """What a push would do or did."""

    plan: Plan
    changes: tuple[Change, ...]
    endpoints: tuple[str, ...] = ()
    warnings: tuple[RookeryError, ...] = ()
    applied: bool = False
    delivered: Mapping[str, int] = field(default_factory=dict)
    fanout: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Landing datasources whose mode of fan-out changes: from which to which."""
    undeclared: tuple[str, ...] = ()
    """Live resources that a push of everything did not name, and left alone."""

    @property
    def empty(self) -> bool:
        return not self.plan and not self.changes

    def as_dict(self) -> dict[str, Any]:
        return {
            "changes": [{"name": c.name, "kind": c.kind, "what": c.what} for c in self.changes],
            "steps": self.plan.as_list(),
            "fanout": [{"datasource": n, "from": a, "to": b} for n, (a, b) in sorted(self.fanout.items())],
            "endpoints": list(self.endpoints),
            "warnings": [w.as_dict() for w in self.warnings],
            "undeclared": list(self.undeclared),
            "applied": self.applied,
        }


def push(
    workspace: Workspace,
    given: Mapping[str, DeployedFile],
    options: PushOptions = PushOptions(),
    progress: Progress = silent,
) -> PushResult:
    """Make the workspace what the given sources, merged over the deployed ones, declare.

    Raises Problems for anything wrong in the sources, RK3001 for a change that needs permission.
    """
    with workspace.changes:
        snapshot = workspace.refresh()
        sources = merge(snapshot, given, options)
        project = parse_sources(sources)
        known = sources == snapshot.sources
        tolerated = _deployed_undeclared(snapshot, sources)
        compiled = compile_all(
            project, lambda told: snapshot.build if known else workspace.compile(project, told, tolerated)
        )
        check_ids(compiled, snapshot.tenants)
        changes = _changes(snapshot, sources, compiled)
        if not options.dry_run:
            reconcile_modes(workspace, snapshot.build)
            snapshot = workspace.refresh()
        continued = _continued(snapshot, compiled, options.skip_backfill)
        broken = broken_views(workspace, snapshot, compiled)
        if changes and not options.prune and _only_endpoints(changes, snapshot, compiled):
            plan = plan_for_workspace(workspace, snapshot, compiled, broken)
        else:
            plan = plan_for(workspace, snapshot, compiled, prune=options.prune, broken=broken, continued=continued)
        check_changes(workspace, plan, compiled)
        _check_kept(plan, compiled, continued)
        warnings = (
            *compiled.warnings,
            *_unchanged(options.skip_backfill - continued),
            *_allowed_in_vain(plan, options.allow, snapshot.build, compiled),
            *(_still_broken(view, why) for view, why in broken.items()),
        )
        modes = mode_changes(workspace, compiled)
        left = () if options.only or options.prune else tuple(sorted(snapshot.sources.keys() - given.keys()))
        result = PushResult(plan, changes, tuple(sorted(compiled.endpoints)), warnings, fanout=modes, undeclared=left)
        if options.dry_run:
            return result
        permit(plan, options.allow)
        warnings = (*warnings, *_expired(workspace, plan))
        result = replace(result, warnings=warnings)
        _try_out(workspace, plan)
        if plan:
            _note_coverage(workspace, snapshot)
        router = router_of(workspace)
        failing = router.failing_tenants()
        delivered = run(workspace, plan, progress)
        _record(workspace, snapshot, sources)
        grant_declared(workspace, project)
        snapshot = workspace.refresh()
        reconcile_modes(workspace, snapshot.build)
        if suspended(workspace):
            forget_repaired(workspace, desired_schema(snapshot.build, snapshot))
        router.retry_now()
        sound = [t for t, row in snapshot.tenants.items() if row.placement == "tables" and t not in failing]
        router.wait_for(sound, progress)
        # One tenant's rows are no reason to refuse a push; what all tenants share is.
        shared = undelivered(workspace, lambda h: h.tenant is None)
        if shared is not None:
            raise shared
        own = undelivered(workspace, lambda h: h.tenant is not None)
        warnings = (*warnings, *([own] if own is not None else []), *_waiting(workspace, plan))
        return replace(result, applied=True, delivered=delivered, warnings=warnings)


def _continued(snapshot: Snapshot, compiled: Build, names: frozenset[str]) -> frozenset[str]:
    """Those of the named pipes whose queries have changed. Raises RK3007 and RK3035 where no target can be kept."""
    for name in sorted(names):
        pipe, before = compiled.pipes.get(name), snapshot.build.pipes.get(name)
        if pipe is None or pipe.target is None:
            message = f"no materialized pipe is named `{name[:120]}`, so there is no target to keep"
            raise RookeryError(UNKNOWN_RESOURCE, message, hint="--skip-backfill takes the name of a pipe")
        if before is None or before.target is None or before.target.name != pipe.target.name:
            raise RookeryError(
                KEEPS_NOTHING,
                f"pipe `{name}` has not filled `{pipe.target.name}` before, so there is nothing to keep",
                hint="push it without --skip-backfill: its history is delivered",
            )
    queries = [{} if not names else _queries(b) for b in (snapshot.build, compiled)]
    return frozenset(n for n in names if queries[0].get(n) != queries[1].get(n))


def _queries(build: Build) -> dict[str, set[str]]:
    """Fingerprints of the views of each pipe, without the list of their columns."""
    found: dict[str, set[str]] = {}
    for view in workspace_schema(build).views.values():
        if view.mark is not None:
            found.setdefault(view.mark.resource, set()).add(view.mark.fingerprint.partition(":")[0])
    return found


def _check_kept(plan: Plan, compiled: Build, continued: frozenset[str]) -> None:
    """Raise RK3035 if the target of a pipe that should be kept would be made anew all the same."""
    for step in plan.steps:
        for name in sorted(continued) if isinstance(step, DropTable) else ():
            target = compiled.pipes[name].target
            if isinstance(step, DropTable) and target is not None and step.name.name == target.name:
                raise RookeryError(
                    KEEPS_NOTHING,
                    f"the rows of `{step.name}` cannot be kept for the new query of `{name}`: {step.reason}",
                    hint="fill a new target with it, or push without --skip-backfill: the plan says what is lost",
                )


def _unchanged(names: frozenset[str]) -> Iterator[RookeryError]:
    for name in sorted(names):
        message = f"the query of `{name}` has not changed, so --skip-backfill changes nothing for it"
        yield RookeryError(KEEPS_NOTHING, message)


def _deployed_undeclared(snapshot: Snapshot, sources: Mapping[str, DeployedFile]) -> frozenset[str]:
    """Deployed pipes that share tenants' rows undeclared, and that the push does not touch."""

    def unchanged(name: str) -> bool:
        before, after = snapshot.sources.get(name), sources.get(name)
        return (before and before.text) == (after and after.text)

    return frozenset(u.pipe for u in snapshot.build.undeclared if unchanged(u.pipe) and unchanged(u.target))


def _expired(workspace: Workspace, plan: Plan) -> Iterator[RookeryError]:
    """What views that are put back have missed for good."""
    views = {s.view.name for s in plan.steps if isinstance(s, CreateView) and s.missing}
    for (view, tenant), rows in sorted(expired_rows(workspace, views).items(), key=str) if views else ():
        whose = f" of tenant `{tenant}`" if tenant is not None else ", or more,"
        yield RookeryError(
            MISSED_EXPIRED,
            f"{rows:,} rows{whose} that `{view}` has missed are no longer in its source, so its target lacks them",
            hint="everything else that it has missed is delivered; send these rows again if you still have them",
        )


def _waiting(workspace: Workspace, plan: Plan) -> Iterator[RookeryError]:
    """Views of a plan that could not be made yet."""
    wanted = {str(s.view.name) for s in plan.steps if isinstance(s, CreateView)}
    for view, note in sorted(workspace.registry.read(DEFERRED_KIND).items()) if wanted else ():
        if view in wanted:
            message = (
                f"`{view}` is not made yet, since tenant `{note['tenant']}` is owed rows, which it would take twice"
            )
            hint = "it is made by itself when the tenant has caught up; what keeps the tenant: rookery fanout status"
            yield RookeryError(VIEW_WAITS, message, hint=hint)


def _note_coverage(workspace: Workspace, snapshot: Snapshot) -> None:
    """Record from what shared targets have been made, before a change (of a TTL, perhaps) makes it harder to tell."""
    live = read_schema(workspace.warehouse, workspace.name, [workspace.name])
    views = [v for n, v in workspace_schema(snapshot.build).views.items() if n in live.views]
    Coverage(workspace.warehouse, workspace.registry, live).renew(views)


def _try_out(workspace: Workspace, plan: Plan) -> None:
    """Run queries that will fill tables anew over what they will read, before anything is dropped. Raises RK3012.

    What is derived from a table that is made anew cannot be tried. What is new need not: nothing is lost by it.
    """
    dropped = {s.name for s in plan.steps if isinstance(s, DropTable)}
    targets = {s.table.name: s.table for s in plan.steps if isinstance(s, CreateTable)}
    altered = any(isinstance(s, AddColumn | ChangeColumn | DropColumn) for s in plan.steps)
    if altered or targets.keys() - dropped:
        # The queries may read what is not there yet.
        return
    for step in plan.steps:
        if isinstance(step, CreateView) and step.view.target in dropped and step.view.source not in dropped:
            why = find_failure(workspace, step.view, target=targets.get(step.view.target))
            if why is not None:
                raise RookeryError(
                    STILL_FAILING,
                    f"`{step.view.name}` would fail on rows that are there, so nothing was changed: {sentence(why)}",
                    hint="change the pipe so that it takes such rows",
                    detail=why,
                )


def broken_views(workspace: Workspace, snapshot: Snapshot, compiled: Build) -> Mapping[Name, str]:
    """Views that were taken down, are wanted as they were, and would fail again, and why."""
    if not suspended(workspace):
        return {}
    desired = desired_schema(compiled, snapshot)
    lacks = repairable(workspace, compiled, desired, read_schema(workspace.warehouse, workspace.name))
    return still_failing(workspace, desired, lacks)


def _still_broken(view: Name, why: str) -> RookeryError:
    return RookeryError(
        STILL_FAILING,
        f"`{view}` would fail again on the rows that it failed on, so its target stays as it is",
        hint="change the pipe so that it takes such rows, and push it; `rookery fanout status` shows the error",
        detail=why,
    )


def _only_endpoints(changes: Iterable[Change], snapshot: Snapshot, compiled: Build) -> bool:
    """Whether nothing that has changed fills a table, or is read by what does."""
    builds = (snapshot.build, compiled)
    filling = {n for b in builds for p in b.materialized() for n in _read_by(b, p.name)}
    return all(c.kind == "pipe" and c.name not in filling for c in changes)


def _read_by(build: Build, name: str) -> set[str]:
    """A pipe with everything that it reads, however far."""
    found, pending = set[str](), [name]
    while pending:
        current = pending.pop()
        if current not in found:
            found.add(current)
            pending.extend(build.pipes[current].reads if current in build.pipes else ())
    return found


def merge(snapshot: Snapshot, given: Mapping[str, DeployedFile], options: PushOptions) -> dict[str, DeployedFile]:
    """The sources that will be deployed: the selected given ones over what is there."""
    selected = dict(given)
    if options.only:
        wanted = set(options.only)
        unknown = wanted - set(given)
        if unknown:
            raise RookeryError(UNKNOWN_RESOURCE, f"no file declares `{min(unknown)}`")
        if options.with_dependencies:
            project = parse_sources({**snapshot.sources, **given})
            wanted = upstream(project, wanted, snapshot.build.composer.verifier)
        selected = {n: s for n, s in given.items() if n in wanted}
    return selected if options.prune and not options.only else {**snapshot.sources, **selected}


def upstream(project: Project, wanted: set[str], verifier: Verifier) -> set[str]:
    """Names with everything upstream: what they read, and the pipes that fill the datasources among it."""
    names = frozenset(project.datasources) | frozenset(project.pipes)
    columns = frozenset(c.name for d in project.datasources.values() for c in d.columns)
    feeders: dict[str, set[str]] = {}
    for name, pipe in project.pipes.items():
        if pipe.materialize:
            feeders.setdefault(pipe.materialize.target, set()).add(name)
    found: set[str] = set()
    pending = list(wanted)
    while pending:
        name = pending.pop()
        if name in found:
            continue
        found.add(name)
        pending.extend(feeders.get(name, ()))
        if name in project.pipes:
            compiled = compile_pipe(project.pipes[name], names, columns, verifier)
            pending.extend(compiled.reads | ({compiled.target.name} if compiled.target else set()))
    return found


def plan_for(
    workspace: Workspace,
    snapshot: Snapshot,
    build: Build,
    *,
    prune: bool = False,
    broken: Collection[Name] = (),
    continued: Collection[str] = (),
) -> Plan:
    """The steps from the live workspace to a build's. Raises RK3002 where one would stand on a foreign object."""
    desired = desired_schema(build, snapshot)
    live = read_schema(workspace.warehouse, workspace.name)
    return _plan(workspace, snapshot, build, desired, live, prune, broken, continued)


def plan_for_tenants(workspace: Workspace, tenants: Sequence[str]) -> Plan:
    """The steps for the nests of some tenants only, whose cost does not grow with the number of all."""
    snapshot = workspace.current
    desired = Schema()
    for tenant in tenants:
        desired = desired.merged(nest_schema(snapshot.build, tenant, snapshot.routed))
    live = read_schema(workspace.warehouse, workspace.name, desired.databases)
    return _plan(workspace, snapshot, snapshot.build, with_feeders(desired), live, False)


def plan_for_workspace(workspace: Workspace, snapshot: Snapshot, build: Build, broken: Collection[Name]) -> Plan:
    """The steps for the workspace's own database, where nests have nothing to change."""
    live = read_schema(workspace.warehouse, workspace.name, [workspace.name])
    return _plan(workspace, snapshot, build, with_feeders(workspace_schema(build)), live, False, broken)


def _plan(
    workspace: Workspace,
    snapshot: Snapshot,
    build: Build,
    desired: Schema,
    live: Schema,
    prune: bool,
    broken: Collection[Name] = (),
    continued: Collection[str] = (),
) -> Plan:
    desired = workspace.analyser.canonical(desired)
    live = _without_state(live)
    sizes = _sizes(workspace, desired.databases)
    options = DiffOptions(
        prune=prune,
        sizes=lambda n: sizes.get(n, 0),
        routed=snapshot.routed,
        broken=broken,
        missing=repairable(workspace, build, desired, live, continued) if snapshot.suspended else {},
        continued=continued,
        why_incomplete=Coverage(workspace.warehouse, workspace.registry, live).why_incomplete,
    )
    plan = diff(desired, live, options)
    created = [s.table.name for s in plan.steps if isinstance(s, CreateTable)]
    created += [s.view.name for s in plan.steps if isinstance(s, CreateView)]
    foreign = foreign_objects(workspace.warehouse, created)
    if foreign:
        raise RookeryError(
            FOREIGN_OBJECT,
            f"`{min(foreign)}` exists already and was not made by this workspace",
            hint="rename it, or choose another name for the resource",
        )
    return plan


def _without_state(schema: Schema) -> Schema:
    tables = {n: t for n, t in schema.tables.items() if not (t.mark and t.mark.kind == "state")}
    return Schema(schema.databases, tables, schema.views)


def _sizes(workspace: Workspace, databases: Iterable[str]) -> dict[Name, int]:
    rows = workspace.warehouse.query(
        "SELECT database, name, ifNull(total_rows, 0) FROM system.tables "
        "WHERE database IN {databases:Array(String)} AND total_rows > 0",
        {"databases": [*sorted(databases)]},
    )
    return {Name(d, n): int(r) for d, n, r in rows.rows}


def run(workspace: Workspace, plan: Plan, progress: Progress = silent) -> dict[str, int]:
    """Apply a plan, then deliver what an interrupted run left outstanding."""
    journal = RegistryJournal(workspace.registry)
    readers = router_of(workspace).start_readers
    context = ApplyContext(
        workspace.warehouse,
        workspace.view_lock,
        journal,
        progress=progress,
        start_readers=readers,
        before_replacing=partial(record_replacement, workspace),
    )
    delivered = apply(plan, context)
    if workspace.registry.read(DEFERRED_KIND):
        workspace.on_views_deferred()
    return {**delivered, **resume(workspace, progress)}


def permit(plan: Plan, allowed: frozenset[str] = frozenset()) -> None:
    """Raise RK3001 for destructive steps that are not allowed by name. All by which something is lost are listed."""
    refused = [s for s in plan.steps if s.destructive and s.resource not in allowed]
    if not refused:
        return
    names = sorted({s.resource for s in refused})
    lost = [s for s in refused if s.loss == "lost"]
    listed = lost or [min(refused, key=lambda s: (s.loss != "recomputed", not s.cost))]
    more = len(refused) - len(listed)
    flags = " ".join(f"--allow-destructive {n}" for n in names)
    raise RookeryError(
        DESTRUCTIVE,
        "\n".join(f"{s.action} {s.subject}: {s.reason}" + (f"; {s.cost}" if s.cost else "") for s in listed)
        + (f" (and {more} more step{'s' if more > 1 else ''} by which nothing is lost)" if more else ""),
        hint=f"to allow it: {flags}" + _kept_instead(lost),
    )


def _kept_instead(lost: Iterable[Step]) -> str:
    """How to keep the rows that a changed query would lose."""
    pipes = sorted({s.resource for s in lost if s.reason == CHANGED})
    flags = " ".join(f"--skip-backfill {n}" for n in pipes)
    return f"; to keep these rows and begin with the new query now: {flags}" if pipes else ""


def _allowed_in_vain(plan: Plan, allowed: frozenset[str], *builds: Build) -> Iterator[RookeryError]:
    """Names that are allowed to be lost and that nothing has, live or in files."""
    known = {s.resource for s in plan.steps} | {n for b in builds for n in (*b.relations, *b.pipes)}
    for name in sorted(allowed - known):
        near = difflib.get_close_matches(name, sorted(known), n=1)
        hint = f"did you mean `{near[0]}`?" if near else None
        yield RookeryError(
            UNKNOWN_RESOURCE, f"nothing is named `{name[:120]}`, so there is nothing to allow", hint=hint
        )


def _changes(snapshot: Snapshot, sources: Mapping[str, DeployedFile], build: Build) -> tuple[Change, ...]:
    def kind(name: str) -> str:
        return "datasource" if name in build.datasources or name in snapshot.build.datasources else "pipe"

    found = []
    for name in sorted(set(sources) | set(snapshot.sources)):
        before, after = snapshot.sources.get(name), sources.get(name)
        if before is None:
            found.append(Change(name, kind(name), "created"))
        elif after is None:
            found.append(Change(name, kind(name), "removed"))
        elif before.text != after.text:
            found.append(Change(name, kind(name), "changed"))
    return tuple(found)


def _record(workspace: Workspace, snapshot: Snapshot, sources: Mapping[str, DeployedFile]) -> None:
    changed = {n: {"text": s.text, "file": s.file} for n, s in sources.items() if snapshot.sources.get(n) != s}
    workspace.registry.write("resource", changed)
    workspace.registry.remove("resource", sorted(set(snapshot.sources) - set(sources)))


def sources_of(bodies: Iterable[Mapping[str, Any]]) -> dict[str, DeployedFile]:
    """Sources from plain data: `{name, file, text}` each. Raises RK1005, and RK1007 for a repeated name."""
    found: dict[str, DeployedFile] = {}
    for body in bodies:
        values: Sequence[Any] = [body.get(k) for k in ("name", "file", "text")]
        if not all(isinstance(v, str) for v in values):
            raise RookeryError(BAD_VALUE, "a file is an object of name, file and text")
        if values[0] in found:
            message = f"`{values[0]}` is given twice: in {found[values[0]].file} and in {values[1]}"
            raise RookeryError(DUPLICATE_NAME, message, hint="rename one of them")
        found[values[0]] = DeployedFile(values[2], values[1])
    return found
