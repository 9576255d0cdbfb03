"""Tenants: provisioning, listing and removal.

Provisioning can be repeated at will: what exists is kept, what is missing is created, and history arrives exactly
once, also while inserts run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from engine.compiler import storage
from engine.compiler.build import Build
from engine.compiler.scope import tenant_literal
from engine.compiler.views import POOL_READER, Reader, pipe_views
from engine.control.erasure import delete_rows, leave_pool
from engine.control.fanout_status import Lag, lags
from engine.control.ids import check_id
from engine.control.push import permit, plan_for_tenants, run
from engine.control.recovery import resume, undelivered
from engine.control.regroup import incomplete_groups, recompute_groups
from engine.errors import BAD_VALUE, DESTRUCTIVE, PLACEMENT, UNKNOWN_TENANT, RookeryError
from engine.fanout.missing_rows import add_pooled_tenants, complete_views, forget_tenant
from engine.fanout.modes import reconcile_modes
from engine.fanout.router import router_of
from engine.plan.backfill import Progress, backfill_of, block_ranges, silent
from engine.plan.steps import Plan
from engine.schema import Name, literal, nest_database, quote
from engine.warehouse import ddl
from engine.warehouse.catalog import load_tables, read_schema
from engine.warehouse.checked_inserts import insert_checked
from engine.workspace.journal import RegistryJournal
from engine.workspace.snapshot import TenantRecord
from engine.workspace.workspace import Workspace

ERASURE_KIND = "erasing"
"""The registry's kind of erasures that have begun, by tenant, with the views that had lost nothing by then."""
PLACEMENTS = ("pooled", "tables")


@dataclass(frozen=True, slots=True)
class Provisioned:
    """Outcome for one tenant: whether it is new, and into how many views history was delivered."""

    tenant: TenantRecord
    created: bool
    delivered: int

    def as_dict(self) -> dict[str, Any]:
        return {**self.tenant.as_dict(), "created": self.created, "delivered": self.delivered}


def add(
    workspace: Workspace, ids: Sequence[str], placement: str | None = None, progress: Progress = silent
) -> list[Provisioned]:
    """Provision tenants with a placement (`pooled` unless told). A tenant that exists keeps its own.

    Raises RK3005 for an id that is not canonical and RK3006 when a tenant exists with another placement.
    """
    if placement is not None and placement not in PLACEMENTS:
        raise RookeryError(BAD_VALUE, f"unknown placement {placement!r}", hint="pooled or tables")
    with workspace.changes:
        snapshot = workspace.refresh()
        for tenant in ids:
            check_id(snapshot.build, tenant)
            known = snapshot.tenants.get(tenant)
            if known and placement and known.placement != placement and known.state != "removing":
                raise RookeryError(
                    PLACEMENT,
                    f"tenant `{tenant}` exists with placement {known.placement}",
                    hint="remove it first; a tenant keeps its placement",
                )
            if known and known.state == "removing":
                purge = " --purge" if tenant in workspace.registry.read(ERASURE_KIND) else ""
                raise RookeryError(
                    PLACEMENT,
                    f"tenant `{tenant}` is being removed",
                    hint=f"finish with `rookery tenant rm {tenant}{purge}`",
                )
        fresh = [t for t in dict.fromkeys(ids) if t not in snapshot.tenants]
        # What is left of their rows is wanted again: an erasure that was interrupted is over.
        workspace.registry.remove(ERASURE_KIND, {*fresh} & workspace.registry.read(ERASURE_KIND).keys())
        moment = datetime.now(UTC).isoformat(timespec="seconds")
        rows = {t: TenantRecord(t, placement or "pooled", "adding", moment) for t in fresh}  # type: ignore[arg-type]
        workspace.registry.write("tenant", {t: r.as_dict() for t, r in rows.items()})
        snapshot = workspace.refresh()
        wanted = [snapshot.tenants[t] for t in dict.fromkeys(ids)]
        delivered = _provision(workspace, wanted, progress)
        ready = [t for t in wanted if t.state != "ready"]
        workspace.registry.write("tenant", {t.id: {**t.as_dict(), "state": "ready"} for t in ready})
        snapshot = workspace.refresh()
        return [Provisioned(snapshot.tenants[t.id], t.id in rows, delivered) for t in wanted]


def _provision(workspace: Workspace, tenants: Sequence[TenantRecord], progress: Progress) -> int:
    delivered = 0
    own = [t.id for t in tenants if t.placement == "tables"]
    if own:
        reconcile_modes(workspace, workspace.current.build)
        plan = plan_for_tenants(workspace, own)
        permit(Plan(plan.lost))
        delivered += len(run(workspace, plan, progress))
        router_of(workspace).wait_for(own, progress)
        _all_delivered(workspace, own)
    pooled = [t.id for t in tenants if t.placement == "pooled"]
    if pooled:
        delivered += _join_pool(workspace, pooled, progress)
    return delivered


def _join_pool(workspace: Workspace, tenants: Sequence[str], progress: Progress) -> int:
    """Enter tenants into the pool behind the fence, then deliver their history into the shared targets."""
    build = workspace.current.build
    pool = Name(workspace.name, storage.POOL_TABLE)
    known = {r[0] for r in workspace.warehouse.query(f"SELECT id FROM {pool.sql()}").rows}
    fresh = [t for t in tenants if t not in known]
    journal = RegistryJournal(workspace.registry)
    resume(workspace)
    if fresh:
        shared = [p for p in build.materialized() if p.target and p.target.per_tenant]
        with workspace.view_lock.changing():
            workspace.view_lock.completion.complete_all()
            suspended = add_pooled_tenants(workspace, fresh)
            histories = []
            for pipe in shared:
                assert pipe.target is not None
                sources = {v.source for v in pipe_views(build, pipe, pipe.target, POOL_READER)}
                ranges = {s: block_ranges(workspace.warehouse, s) for s in sources if _is_landing(build, s)}
                for tenant in fresh:
                    views = pipe_views(build, pipe, pipe.target, Reader("pool", tenant))
                    made = [v for v in views if str(v.name) not in suspended]
                    histories += [backfill_of(v, ranges[v.source]) for v in made if ranges.get(v.source)]
            journal.record(histories)
            journal.record_newest_blocks()
            body = b"\n".join(b'{"id":' + _json(t) + b"}" for t in fresh)
            insert_checked(workspace.warehouse, pool, body, ("id",))
    delivered = resume(workspace, progress)
    _all_delivered(workspace, tenants)
    return len(delivered)


def _all_delivered(workspace: Workspace, tenants: Sequence[str]) -> None:
    exc = undelivered(workspace, lambda h: h.tenant in tenants)
    if exc is not None:
        raise exc


def _is_landing(build: Build, source: Name) -> bool:
    relation = build.relations.get(source.name)
    return relation is not None and relation.kind == "landing"


def _json(text: str) -> bytes:
    return orjson.dumps(text)


def remove(workspace: Workspace, tenant: str, *, purge: bool = False, allow: Collection[str] = ()) -> None:
    """Remove a tenant: views before tables, then its tokens and its row. Inserts into landing continue meanwhile.

    Its rows stay in landing, to be delivered again if it is added again, unless `purge` erases them there too.
    Raises RK3001, before anything is changed, for a shared aggregate that would lose other tenants' rows by it and
    is not in `allow`.
    """
    with workspace.changes:
        snapshot = workspace.refresh()
        row = snapshot.tenants.get(tenant)
        if purge and (row is not None or check_id(snapshot.build, tenant)):
            _permit_erasure(workspace, snapshot.build, tenant, allow)
        if row is None and purge:
            # Rows may be in landing of a tenant that nobody has added.
            check_id(snapshot.build, tenant)
            _erase(workspace, snapshot.build, tenant)
            return
        if row is None:
            raise RookeryError(UNKNOWN_TENANT, f"tenant `{tenant}` does not exist", hint="rookery tenant ls")
        workspace.registry.write("tenant", {tenant: {**row.as_dict(), "state": "removing"}})
        names = [t.name for t in snapshot.tokens.values() if t.tenant == tenant]
        workspace.registry.remove("token", names)
        workspace.refresh()
        journal = RegistryJournal(workspace.registry)
        journal.delete([h for h in journal.outstanding() if h.tenant == tenant])
        forget_tenant(workspace, tenant, row.nest(workspace.name))
        if row.placement == "tables":
            router_of(workspace).forget([tenant])
            _drop_nest(workspace, tenant)
        else:
            _leave_pool(workspace, snapshot.build, tenant)
        if purge:
            _erase(workspace, snapshot.build, tenant)
        workspace.registry.remove("tenant", [tenant])
        workspace.refresh()


def _drop_nest(workspace: Workspace, tenant: str) -> None:
    nest = nest_database(workspace.name, tenant)
    live = read_schema(workspace.warehouse, workspace.name)
    views = [v for v in live.views.values() if v.name.database == nest and v.mark and v.mark.tenant == tenant]
    tables = [t for t in live.tables.values() if t.name.database == nest and t.mark and t.mark.tenant == tenant]
    with workspace.view_lock.changing():
        for view in views:
            workspace.warehouse.execute(ddl.drop_view(view.name))
    for table in tables:
        workspace.warehouse.execute(ddl.drop_table(table.name))
    left = workspace.warehouse.query("SELECT count() FROM system.tables WHERE database = {d:String}", {"d": nest})
    if not left.rows[0][0]:
        workspace.warehouse.execute(ddl.drop_database(nest))


def _leave_pool(workspace: Workspace, build: Build, tenant: str) -> None:
    leave_pool(workspace, tenant)
    for relation in build.relations.values():
        if relation.kind == "target" and relation.tenant:
            _delete_rows(
                workspace, Name(workspace.name, relation.name), relation.tenant, relation.tenant_type, tenant
            )


def _permit_erasure(workspace: Workspace, build: Build, tenant: str, allow: Collection[str]) -> None:
    """Raise RK3001 for shared aggregates that cannot be computed again without loss and are not allowed by name.

    An erasure that has begun has been permitted, and what it deletes is no loss: both are noted first.
    """
    if tenant in workspace.registry.read(ERASURE_KIND):
        return
    refused = {n: why for n, why in incomplete_groups(workspace, build, tenant).items() if n not in allow}
    if refused:
        flags = " ".join(f"--allow-destructive {n}" for n in refused)
        raise RookeryError(
            DESTRUCTIVE,
            "\n".join(
                f"erasing tenant `{tenant}` computes its groups of `{name}` again, and other tenants' rows in them "
                f"would be lost: {why}"
                for name, why in refused.items()
            ),
            hint=f"to allow it: rookery tenant rm {tenant} --purge {flags}",
        )
    names = [str(v.name) for v in complete_views(workspace)]
    workspace.registry.write(ERASURE_KIND, {tenant: {"complete": names}})


def _erase(workspace: Workspace, build: Build, tenant: str) -> None:
    """Erase a tenant's rows. They are not missing from then on: nothing is to be made from them again."""
    complete = {*workspace.registry.read(ERASURE_KIND)[tenant]["complete"]}
    for relation in build.relations.values():
        if relation.tenant:
            _delete_rows(
                workspace, Name(workspace.name, relation.name), relation.tenant, relation.tenant_type, tenant
            )
        if relation.tenant and build.takes(relation.name):
            mine = f"{quote(relation.tenant)} = {literal(tenant)} OR c__writer = {literal(tenant)}"
            delete_rows(workspace, Name(workspace.name, relation.name + storage.QUARANTINE_SUFFIX), mine)
    live = read_schema(workspace.warehouse, workspace.name, [workspace.name]).views.values()
    RegistryJournal(workspace.registry).record_consumed([v for v in live if str(v.name) in complete], ())
    recompute_groups(workspace, build, tenant)
    workspace.registry.remove(ERASURE_KIND, [tenant])


def _delete_rows(workspace: Workspace, table: Name, column: str, kind: str, tenant: str) -> None:
    mine = f"{quote(column)} = {tenant_literal(kind, tenant)}"
    delete_rows(workspace, table, mine)


def rows_by_tenant(workspace: Workspace) -> dict[str, int]:
    """Rows in landing by tenant id, those of unknown tenants included."""
    found: dict[str, int] = {}
    for relation in workspace.current.build.relations.values():
        if relation.kind != "landing" or not relation.tenant:
            continue
        table = Name(workspace.name, relation.name).sql()
        rows = workspace.warehouse.query(
            f"SELECT toString({quote(relation.tenant)}) AS _rk_tenant, count() FROM {table} GROUP BY _rk_tenant"
        )
        for tenant, count in rows.rows:
            found[tenant] = found.get(tenant, 0) + int(count)
    return found


def listing(workspace: Workspace) -> list[dict[str, Any]]:
    """Every tenant with its placement, state, landing rows and how far its nest is behind.

    Rows of tenants that do not exist are listed as `unknown`.
    """
    rows = rows_by_tenant(workspace)
    tenants = workspace.refresh().tenants
    behind = lags(workspace)
    known = [
        {**t.as_dict(), "rows": rows.get(t.id, 0), **_lag(behind, t.id)}
        for t in sorted(tenants.values(), key=lambda t: t.id)
    ]
    unknown = [
        {"id": t, "placement": None, "state": "unknown", "created_at": "", "rows": n, **_lag(behind, t)}
        for t, n in sorted(rows.items())
        if t not in tenants
    ]
    return known + unknown


def _lag(behind: Mapping[str, Lag], tenant: str) -> dict[str, Any]:
    lag = behind.get(tenant, Lag())
    return {"lag_rows": lag.rows, "lag_seconds": lag.seconds, "error": lag.error}


def show(workspace: Workspace, tenant: str) -> dict[str, Any]:
    """One tenant with the tables that keep its rows. Raises RK3004."""
    row = workspace.refresh().tenants.get(tenant)
    if row is None:
        raise RookeryError(UNKNOWN_TENANT, f"tenant `{tenant}` does not exist", hint="rookery tenant ls")
    nest = row.nest(workspace.name)
    objects: list[dict[str, Any]] = []
    if nest:
        load_tables(workspace.warehouse, nest)
        found = workspace.warehouse.query(
            "SELECT name, engine, ifNull(total_rows, 0) AS rows, ifNull(total_bytes, 0) AS bytes FROM system.tables "
            "WHERE database = {d:String} AND engine NOT IN ('MaterializedView', {i:String}) ORDER BY name",
            {"d": nest, "i": storage.NULL_ENGINE},
        )
        objects = found.dicts()
    rows = rows_by_tenant(workspace).get(tenant, 0)
    return {**row.as_dict(), "rows": rows, **_lag(lags(workspace), tenant), "nest": nest, "tables": objects}
