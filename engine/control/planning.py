"""Plans and applies the steps from the live workspace to the one that a build describes.

Push, tenants, resources, deferred views and the doctor share these functions. The functions that only plan change
nothing in ClickHouse.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from engine.compiler.build import Build
from engine.compiler.views import nest_schema, workspace_schema
from engine.control.unfinished_history import deliver_unfinished
from engine.errors import DESTRUCTIVE, FOREIGN_OBJECT, RookeryError
from engine.fanout.router import router_of
from engine.fanout.suspended_views import record_replacement
from engine.fanout.view_repairs import repairable, still_failing
from engine.plan.apply import ApplyContext, apply
from engine.plan.conversions import failed_conversions, with_stored_types
from engine.plan.coverage import Coverage
from engine.plan.diff import CHANGED, DiffOptions, diff, with_feeders
from engine.plan.progress import Progress, silent
from engine.plan.steps import CreateTable, CreateView, Plan, Step
from engine.plan.summary import effect_of, in_groups
from engine.schema import Name, Schema
from engine.warehouse.catalog import columns_missing_in_parts, foreign_objects, read_schema
from engine.workspace.journal import DEFERRED_KIND, RegistryJournal
from engine.workspace.snapshot import Snapshot
from engine.workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What a plan may do in addition to creating the declared objects."""

    prune: bool = False
    """Whether objects that no file declares are dropped."""
    broken: Collection[Name] = ()
    """Suspended views that would fail again; the plan does not change them or their targets."""
    continued: Collection[str] = ()
    """Pipes with a changed query whose targets keep their rows."""


@dataclass(frozen=True, slots=True)
class _Schemas:
    """The two sides of a comparison."""

    desired: Schema
    live: Schema


def desired_schema(build: Build, snapshot: Snapshot) -> Schema:
    """Everything that should exist: the workspace's own objects and every nest, in order of data flow."""
    schema = workspace_schema(build)
    for tenant in snapshot.tenants.values():
        if tenant.placement == "tables" and tenant.state != "removing":
            schema = schema.merged(nest_schema(build, tenant.id, snapshot.routed))
    return with_feeders(schema)


def broken_views(workspace: Workspace, snapshot: Snapshot, build: Build) -> Mapping[Name, str]:
    """Suspended views whose query the build leaves unchanged and that would fail again, with the error."""
    if not snapshot.suspended:
        return {}
    desired = desired_schema(build, snapshot)
    missing = repairable(workspace, build, desired, read_schema(workspace.warehouse, workspace.name))
    return still_failing(workspace, desired, missing)


def plan_for(workspace: Workspace, snapshot: Snapshot, build: Build, options: PlanOptions = PlanOptions()) -> Plan:
    """Plan the whole workspace with every nest. Raises RK3002 if an object of another program has the name of one of
    ours.
    """
    schemas = _Schemas(desired_schema(build, snapshot), read_schema(workspace.warehouse, workspace.name))
    return _plan(workspace, snapshot, build, schemas, options)


def plan_for_tenants(workspace: Workspace, tenants: Sequence[str]) -> Plan:
    """Plan the nests of the given tenants only. The cost does not grow with the number of all tenants."""
    snapshot = workspace.current
    desired = Schema()
    for tenant in tenants:
        desired = desired.merged(nest_schema(snapshot.build, tenant, snapshot.routed))
    live = read_schema(workspace.warehouse, workspace.name, desired.databases)
    return _plan(workspace, snapshot, snapshot.build, _Schemas(with_feeders(desired), live), PlanOptions())


def plan_for_workspace(workspace: Workspace, snapshot: Snapshot, build: Build, broken: Collection[Name]) -> Plan:
    """Plan the workspace's own database only, for changes that cannot affect a nest."""
    desired = with_feeders(workspace_schema(build))
    live = read_schema(workspace.warehouse, workspace.name, [workspace.name])
    return _plan(workspace, snapshot, build, _Schemas(desired, live), PlanOptions(broken=broken))


def _plan(workspace: Workspace, snapshot: Snapshot, build: Build, schemas: _Schemas, options: PlanOptions) -> Plan:
    """Compare two schemas in the same spelling, and refuse a plan that would touch objects of other programs."""
    # The engine rewrites types and defaults. Unless both sides have the same spelling, every push would find changes.
    desired = workspace.analyser.canonical(schemas.desired)
    failed = failed_conversions(workspace.warehouse, workspace.name)
    live = with_stored_types(_without_state_tables(schemas.live), failed)
    sizes = _row_counts(workspace, desired.databases)
    diff_options = DiffOptions(
        prune=options.prune,
        sizes=lambda name: sizes.get(name, 0),
        unstored=partial(columns_missing_in_parts, workspace.warehouse),
        routed=snapshot.routed,
        broken=options.broken,
        missing=repairable(workspace, build, desired, live, options.continued) if snapshot.suspended else {},
        continued=options.continued,
        why_incomplete=Coverage(workspace.warehouse, workspace.registry, live).why_incomplete,
    )
    plan = diff(desired, live, diff_options)
    _check_foreign_objects(workspace, plan)
    return plan


def _check_foreign_objects(workspace: Workspace, plan: Plan) -> None:
    """Raise RK3002 if a step would create an object whose name another program already uses."""
    created = [s.table.name for s in plan.steps if isinstance(s, CreateTable)]
    created += [s.view.name for s in plan.steps if isinstance(s, CreateView)]
    # An object with a mark of this workspace is in the live schema, so the plan does not create it.
    foreign = foreign_objects(workspace.warehouse, created)
    if foreign:
        raise RookeryError(
            FOREIGN_OBJECT,
            f"`{min(foreign)}` exists already and was not made by this workspace",
            hint="rename it, or choose another name for the resource",
        )


def _without_state_tables(schema: Schema) -> Schema:
    """The schema without tables of unfinished work, which are not declared by any file and which a plan must not
    drop.
    """
    tables = {n: t for n, t in schema.tables.items() if not (t.mark and t.mark.kind == "state")}
    return Schema(schema.databases, tables, schema.views)


def _row_counts(workspace: Workspace, databases: Iterable[str]) -> dict[Name, int]:
    """The number of rows of each table that has any."""
    result = workspace.warehouse.query(
        "SELECT database, name, ifNull(total_rows, 0) FROM system.tables "
        "WHERE database IN {databases:Array(String)} AND total_rows > 0",
        {"databases": [*sorted(databases)]},
    )
    return {Name(database, name): int(rows) for database, name, rows in result.rows}


def permit(plan: Plan, allowed: frozenset[str] = frozenset()) -> None:
    """Raise RK3001 if the plan has destructive steps that are not allowed by the name of their resource.

    The message lists every step that loses rows. If none does, it lists those that recompute rows.
    """
    refused = [s for s in plan.steps if s.destructive and s.resource not in allowed]
    if not refused:
        return
    # With many steps, those that lose rows must not be hidden among those that only cost time.
    lossy = [s for s in refused if s.loss == "lost"]
    listed = lossy or [s for s in refused if s.loss == "recomputed"] or refused[:1]
    lines = in_groups(effect_of(s, "lost") for s in listed)
    more = len(refused) - len(listed)
    flags = " ".join(f"--allow-destructive {n}" for n in sorted({s.resource for s in refused}))
    raise RookeryError(
        DESTRUCTIVE,
        "\n".join(effect.text for effect in lines)
        + (f" (and {more} more step{'s' if more > 1 else ''}; no rows are lost there)" if more else ""),
        hint=f"to allow it: {flags}" + _hint_to_keep_rows(lossy),
    )


def _hint_to_keep_rows(lossy: Iterable[Step]) -> str:
    """How to keep the rows that a changed query would lose."""
    pipes = sorted({s.resource for s in lossy if s.reason == CHANGED})
    flags = " ".join(f"--skip-backfill {n}" for n in pipes)
    return f"; to keep these rows and use the new query only for new rows: {flags}" if pipes else ""


def apply_plan(workspace: Workspace, plan: Plan, progress: Progress = silent) -> dict[str, int]:
    """Apply a plan, then deliver the history that an interrupted run left behind.

    Returns how many ranges of history were delivered, by view.
    """
    context = ApplyContext(
        workspace.warehouse,
        workspace.view_lock,
        RegistryJournal(workspace.registry),
        progress=progress,
        start_readers=router_of(workspace).start_readers,
        before_replacing=partial(record_replacement, workspace),
    )
    delivered = apply(plan, context)
    # The plan may have deferred views of tenants that lag behind.
    if workspace.registry.read(DEFERRED_KIND):
        workspace.on_views_deferred()
    return {**delivered, **deliver_unfinished(workspace, progress)}
