"""Tenants: adding, listing and removing them.

All operations can be repeated: what exists is kept, what is missing is created, and each row of history is delivered
once, even while inserts run.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from engine.compiler import storage
from engine.control.deferred_views import deferred_of
from engine.control.erasure import (
    ERASURE_KIND,
    complete_uncertain,
    delete_tenant_rows,
    erase,
    forget_keys,
    has_rows,
    permit_erasure,
)
from engine.control.fanout_status import Lag, lags
from engine.control.ids import check_id
from engine.control.planning import apply_plan, permit, plan_for_tenants
from engine.control.pool import join_pool, leave_pool
from engine.control.unfinished_history import undelivered_error
from engine.errors import (
    BAD_VALUE,
    PLACEMENT,
    UNKNOWN_TENANT,
    RookeryError,
    did_you_mean,
)
from engine.fanout.modes import reconcile_modes
from engine.fanout.router import router_of
from engine.fanout.suspension_records import forget_tenant
from engine.observe import events
from engine.plan.progress import Progress, silent
from engine.plan.steps import Plan
from engine.schema import Name, nest_database, quote
from engine.tokens.static_tokens import TOKEN_KINDS
from engine.warehouse import ddl
from engine.warehouse.catalog import load_tables, read_schema
from engine.workspace.journal import DEFERRED_KIND, RegistryJournal
from engine.workspace.snapshot import PURGED_KIND, READDED_KIND, Snapshot, TenantRecord
from engine.workspace.workspace import Workspace

PLACEMENTS = ("pooled", "tables")
PUBLIC_LAG_ERROR = "rows cannot be delivered; an admin sees why: rookery fanout status"
"""The error of a tenant for callers who may not read rows."""


@dataclass(frozen=True, slots=True)
class Provisioned:
    """The result of adding one tenant."""

    tenant: TenantRecord
    created: bool
    """Whether the tenant is new."""
    delivered: int
    """How many views delivered history, in total for all tenants of the request."""

    def as_dict(self) -> dict[str, Any]:
        return {**self.tenant.as_dict(), "created": self.created, "delivered": self.delivered}


def add(
    workspace: Workspace, ids: Sequence[str], placement: str | None = None, progress: Progress = silent
) -> list[Provisioned]:
    """Add tenants with a placement (`pooled` by default). A tenant that exists keeps its placement.

    Raises RK3005 for an id that is not canonical, and RK3006 if a tenant exists with another placement or is being
    removed. A tenant's record says `adding` until it is complete, so that an interrupted command can be repeated.
    Holds `Workspace.changes` until all history is delivered; inserts continue.
    """
    if placement is not None and placement not in PLACEMENTS:
        raise RookeryError(BAD_VALUE, f"unknown placement {placement!r}", hint="pooled or tables")
    with workspace.changes:
        snapshot = workspace.refresh()
        erasing = workspace.registry.read(ERASURE_KIND)
        for tenant in ids:
            check_id(snapshot.build, tenant)
            _check_placement(snapshot.tenants.get(tenant), placement, erasing)
        new = [t for t in dict.fromkeys(ids) if t not in snapshot.tenants]
        # Done before it is forgotten that they were purged, so that a repeated command does it after a kill.
        again = {*new} & snapshot.purged - erasing.keys()
        workspace.registry.write(READDED_KIND, {t: {"at": time.time_ns()} for t in again})
        forget_keys(workspace, again)
        # If a tenant is added again, its interrupted erasure is cancelled, because its remaining rows are needed.
        for kind, recorded in workspace.registry.read_all([ERASURE_KIND, PURGED_KIND]).items():
            workspace.registry.remove(kind, {*new} & recorded.keys())
        moment = datetime.now(UTC).isoformat(timespec="seconds")
        records = {t: TenantRecord(t, placement or "pooled", "adding", moment) for t in new}  # type: ignore[arg-type]
        # Recorded before anything exists: after a kill, the tenant is listed as `adding`, and the command can be
        # repeated.
        workspace.registry.write("tenant", {t: record.as_dict() for t, record in records.items()})
        snapshot = workspace.refresh()
        wanted = [snapshot.tenants[t] for t in dict.fromkeys(ids)]
        delivered = _provision(workspace, wanted, progress)
        completed = [t for t in wanted if t.state != "ready"]
        workspace.registry.write("tenant", {t.id: {**t.as_dict(), "state": "ready"} for t in completed})
        snapshot = workspace.refresh()
        if completed:
            events.note("tenants added", tenants=[t.id for t in completed], placement=placement or "pooled")
        return [Provisioned(snapshot.tenants[t.id], t.id in records, delivered) for t in wanted]


def _check_placement(known: TenantRecord | None, placement: str | None, erasing: Collection[str]) -> None:
    """Raise RK3006 if a tenant exists with another placement, or is being removed."""
    if known is None:
        return
    # An erasure that was killed early has only been recorded, and the next start completes it.
    if known.state == "removing" or known.id in erasing:
        purge = " --purge" if known.id in erasing else ""
        raise RookeryError(
            PLACEMENT,
            f"tenant `{known.id}` is being removed",
            hint=f"finish with `rookery tenant rm {known.id}{purge}`",
        )
    if placement and known.placement != placement:
        raise RookeryError(
            PLACEMENT,
            f"tenant `{known.id}` exists with placement {known.placement}",
            hint="remove it first; a tenant keeps its placement",
        )


def _provision(workspace: Workspace, tenants: Sequence[TenantRecord], progress: Progress) -> int:
    """Create nests, join the pool, and deliver history. Returns how many views delivered it."""
    delivered = 0
    own = [t.id for t in tenants if t.placement == "tables"]
    if own:
        # One more nest may switch a landing datasource to routed fan-out, which determines whether nests have views.
        reconcile_modes(workspace, workspace.current.build)
        plan = plan_for_tenants(workspace, own)
        # An existing tenant may have tables that differ from the files. Adding it again must not lose its rows.
        permit(Plan(plan.lost))
        delivered += len(apply_plan(workspace, plan, progress))
        # In routed mode the nests are still empty; the worker delivers the landing log to them.
        router_of(workspace).wait_for(own, progress)
        _create_deferred_views(workspace, own)
        _check_delivered(workspace, own)
    pooled = [t.id for t in tenants if t.placement == "pooled"]
    if pooled:
        delivered += join_pool(workspace, pooled, progress)
        _check_delivered(workspace, pooled)
    return delivered


def _create_deferred_views(workspace: Workspace, tenants: Sequence[str]) -> None:
    """Create views that an earlier, interrupted addition of the tenants has deferred until they had all rows."""
    if any(record["tenant"] in tenants for record in workspace.registry.read(DEFERRED_KIND).values()):
        deferred_of(workspace).create_ready()


def _check_delivered(workspace: Workspace, tenants: Sequence[str]) -> None:
    """Raise RK3010 if history of one of the tenants is outstanding."""
    exc = undelivered_error(h for h in RegistryJournal(workspace.registry).outstanding() if h.tenant in tenants)
    if exc is not None:
        raise exc


def remove(
    workspace: Workspace,
    tenant: str,
    *,
    purge: bool = False,
    allow: Collection[str] = (),
    progress: Progress = silent,
) -> None:
    """Remove a tenant: its views before its tables, then its tokens and its record. Inserts continue meanwhile.

    Its rows stay in landing, and are delivered again if it is added again, unless `purge` erases them there too.
    After a purge, rows with its id are not stored until it is added again.

    Raises RK3004 for an unknown tenant, with `purge` only if no stored row has its id; and RK3001, before anything is
    changed, for a shared aggregate that the erasure would cost other tenants' rows and that is not in `allow`. With
    `purge`, raises RK5013 or RK6008 while a batch is uncertain and cannot be completed, and RK6003 if appends that
    were accepted before take too long.
    """
    with workspace.changes:
        snapshot = workspace.refresh()
        record = snapshot.tenants.get(tenant)
        if purge:
            if record is None:
                check_id(snapshot.build, tenant)
            complete_uncertain(workspace)
            if record is None and tenant not in snapshot.purged and not has_rows(workspace, snapshot.build, tenant):
                # A misspelled id must not look like a purge that is done.
                raise unknown_tenant(tenant, snapshot.tenants)
            permit_erasure(workspace, snapshot.build, tenant, allow)
            # Appends that are accepted from now on must not bring back what is about to be erased.
            workspace.registry.write(PURGED_KIND, {tenant: {}})
            workspace.refresh()
        if record is not None:
            progress("remove the tenant's tables", 0, 0)
            _remove(workspace, snapshot, record)
        elif not purge:
            raise unknown_tenant(tenant, snapshot.tenants)
        if purge:
            # Landing may also contain rows of a tenant that was never added.
            erase(workspace, snapshot.build, tenant, progress)
        if record is not None:
            workspace.registry.remove("tenant", [tenant])
            workspace.refresh()
        events.note("tenant purged" if purge else "tenant removed", tenant=tenant)


def _remove(workspace: Workspace, snapshot: Snapshot, record: TenantRecord) -> None:
    """Remove a tenant's tokens, notes, views and derived rows. Its record says `removing` from then on."""
    tenant = record.id
    workspace.registry.write("tenant", {tenant: {**record.as_dict(), "state": "removing"}})
    for kind in TOKEN_KINDS:
        tokens = [t.name for t in snapshot.tokens.values() if t.tenant == tenant and t.kind == kind]
        workspace.registry.remove(kind, tokens)
    workspace.refresh()
    journal = RegistryJournal(workspace.registry)
    # Done first: after a kill, history must not be delivered to a nest that is half dropped.
    journal.delete([h for h in journal.outstanding() if h.tenant == tenant])
    forget_tenant(workspace, tenant, record.nest(workspace.name))
    if record.placement == "tables":
        # Done first, because the worker would report the missing tables as failures of the tenant.
        router_of(workspace).remove_tenants([tenant])
        _drop_nest(workspace, tenant)
    else:
        leave_pool(workspace, tenant)
        for relation in snapshot.build.relations.values():
            if relation.kind == "target" and relation.tenant:
                delete_tenant_rows(workspace, relation, tenant)


def _drop_nest(workspace: Workspace, tenant: str) -> None:
    """Drop a tenant's views, then its tables, and the database unless it contains objects of another program."""
    # Drop only objects marked as this tenant's, because another program may have created tables in the database.
    nest = nest_database(workspace.name, tenant)
    live = read_schema(workspace.warehouse, workspace.name)
    views = [v for v in live.views.values() if v.name.database == nest and v.mark and v.mark.tenant == tenant]
    tables = [t for t in live.tables.values() if t.name.database == nest and t.mark and t.mark.tenant == tenant]
    # Views are dropped first, because an insert into landing fails if the target of a view does not exist.
    with workspace.view_lock.changing():
        for view in views:
            workspace.warehouse.execute(ddl.drop_view(view.name))
    for table in tables:
        workspace.warehouse.execute(ddl.drop_table(table.name))
    remaining = workspace.warehouse.query(
        "SELECT count() FROM system.tables WHERE database = {d:String}", {"d": nest}
    )
    if not remaining.rows[0][0]:
        workspace.warehouse.execute(ddl.drop_database(nest))


def rows_by_tenant(workspace: Workspace) -> dict[str, int]:
    """Rows in landing by tenant id, including tenants that do not exist."""
    totals: dict[str, int] = {}
    for relation in workspace.current.build.relations.values():
        if relation.kind != "landing" or not relation.tenant:
            continue
        table = Name(workspace.name, relation.name).sql()
        result = workspace.warehouse.query(
            f"SELECT toString({quote(relation.tenant)}) AS _rk_tenant, count() FROM {table} GROUP BY _rk_tenant"
        )
        for tenant, count in result.rows:
            totals[tenant] = totals.get(tenant, 0) + int(count)
    return totals


def listing(workspace: Workspace, *, public: bool = False) -> list[dict[str, Any]]:
    """Every tenant as JSON: placement, state, rows in landing, and how far its nest is behind.

    Tenants that have rows in landing and do not exist are listed with the state `unknown`. With `public`, errors do
    not quote rows.
    """
    rows = rows_by_tenant(workspace)
    tenants = workspace.refresh().tenants
    lag_by_tenant = _lags(workspace, public=public)
    known = [
        {**t.as_dict(), "rows": rows.get(t.id, 0), **_lag(lag_by_tenant, t.id)}
        for t in sorted(tenants.values(), key=lambda t: t.id)
    ]
    unknown = [
        {"id": t, "placement": None, "state": "unknown", "created_at": "", "rows": n, **_lag(lag_by_tenant, t)}
        for t, n in sorted(rows.items())
        if t not in tenants
    ]
    return known + unknown


def _lags(workspace: Workspace, *, public: bool) -> dict[str, Lag]:
    """The lag of every tenant that has one; with `public`, without the engine's messages, which quote rows."""
    found = lags(workspace)
    return {t: replace(lag, error=lag.error and PUBLIC_LAG_ERROR) for t, lag in found.items()} if public else found


def _lag(lag_by_tenant: Mapping[str, Lag], tenant: str) -> dict[str, Any]:
    """The part of a tenant's JSON that says how far it is behind."""
    lag = lag_by_tenant.get(tenant, Lag())
    return {"lag_rows": lag.rows, "lag_seconds": lag.seconds, "error": lag.error}


def unknown_tenant(tenant: str, known: Iterable[str]) -> RookeryError:
    """RK3004, with a similar tenant as the hint."""
    hint = did_you_mean(tenant, known, "rookery tenant ls")
    return RookeryError(UNKNOWN_TENANT, f"tenant `{tenant}` does not exist", hint=hint)


def show(workspace: Workspace, tenant: str, *, public: bool = False) -> dict[str, Any]:
    """One tenant as JSON, with the tables of its nest; with `public`, its error does not quote rows. Raises
    RK3004.
    """
    tenants = workspace.refresh().tenants
    record = tenants.get(tenant)
    if record is None:
        raise unknown_tenant(tenant, tenants)
    nest = record.nest(workspace.name)
    tables: list[dict[str, Any]] = []
    if nest:
        # The engine only knows the size of a table after loading it.
        load_tables(workspace.warehouse, nest)
        result = workspace.warehouse.query(
            "SELECT name, engine, ifNull(total_rows, 0) AS rows, ifNull(total_bytes, 0) AS bytes FROM system.tables "
            "WHERE database = {d:String} AND engine NOT IN ('MaterializedView', {i:String}) ORDER BY name",
            {"d": nest, "i": storage.NULL_ENGINE},
        )
        tables = result.dicts()
    rows = rows_by_tenant(workspace).get(tenant, 0)
    return {
        **record.as_dict(),
        "rows": rows,
        **_lag(_lags(workspace, public=public), tenant),
        "nest": nest,
        "tables": tables,
    }
