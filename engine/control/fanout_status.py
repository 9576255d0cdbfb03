"""The state of fan-out: how far nests are behind landing, which tenants fail, and which views are suspended."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from engine.compiler.build import Build
from engine.compiler.scope import Relation
from engine.compiler.views import nest_schema, workspace_schema
from engine.fanout.landing_log import LandingLog
from engine.fanout.offsets import ConsumerGroup, LogRange
from engine.fanout.router import router_of
from engine.fanout.suspension_records import suspended
from engine.fanout.worker import Position
from engine.schema import Name, nest_database
from engine.workspace.snapshot import Snapshot
from engine.workspace.workspace import Workspace

MAX_NAMED_TENANTS = 100
"""A query for outstanding rows names at most this many tenants; if there are more, it counts the rows of all
tenants.
"""


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a tenant's nest is behind landing."""

    rows: int = 0
    """Outstanding rows."""
    seconds: float = 0.0
    """Age of the oldest outstanding row."""
    error: str | None = None
    """Why the rows cannot be delivered, if they cannot."""

    def joined(self, other: Lag) -> Lag:
        """The sum of the lags of two datasources."""
        return Lag(self.rows + other.rows, max(self.seconds, other.seconds), self.error or other.error)


def status(workspace: Workspace) -> dict[str, Any]:
    """Every landing datasource with its mode, its lag and its lagging tenants, and the suspended views. As JSON.

    Outstanding rows are counted in landing, not taken from the workers' own counters.
    """
    snapshot = workspace.refresh()
    positions = router_of(workspace).positions()
    views = suspended(workspace)
    missing = _tenants_missing_rows(snapshot, [v["view"] for v in views])
    datasources = []
    for name, relation in _landings(snapshot.build):
        position = positions.get(name)
        if position is None:
            datasources.append(_direct(snapshot, name, missing.get(name, set())))
        else:
            log = LandingLog(workspace.warehouse, workspace.name, relation)
            datasources.append(_routed(log, position, missing.get(name, set())))
    return {"datasources": datasources, "suspended": views}


def retry(workspace: Workspace) -> dict[str, Any]:
    """Retry failed deliveries now. Returns the number of affected tenants by datasource, as JSON."""
    router = router_of(workspace)
    waiting = {name: sum(len(c.members) for c in p.lagging) for name, p in router.positions().items()}
    router.retry_now()
    return {"retried": {name: count for name, count in waiting.items() if count}}


def lags(workspace: Workspace) -> dict[str, Lag]:
    """The lag of every tenant that has one, over all landing datasources."""
    lag_by_tenant: dict[str, Lag] = {}

    def add(tenant: str, lag: Lag) -> None:
        lag_by_tenant[tenant] = lag_by_tenant.get(tenant, Lag()).joined(lag)

    snapshot = workspace.current
    positions = router_of(workspace).positions()
    for name, relation in _landings(snapshot.build):
        position = positions.get(name)
        if position is None:
            continue
        log = LandingLog(workspace.warehouse, workspace.name, relation)
        for group in (position.main, *position.lagging):
            for tenant, (rows, seconds) in _outstanding(log, group).items():
                add(tenant, Lag(rows, seconds))
            for tenant in group.members if group.error else ():
                add(tenant, Lag(error=group.error))
    for view in suspended(workspace):
        state = "leaves out this tenant" if view.get("without") else "is suspended"
        for tenant in view.get("without") or _tenants_of_view(snapshot, view["view"]):
            add(tenant, Lag(error=f"{view['view']} {state}: {view['error']}"))
    return lag_by_tenant


def lagging(workspace: Workspace) -> dict[str, set[str]]:
    """Tenants that are known to lack rows, by landing datasource."""
    tenants = _tenants_missing_rows(workspace.current, [v["view"] for v in suspended(workspace)])
    for name, position in router_of(workspace).positions().items():
        tenants.setdefault(name, set()).update(*(c.members for c in position.lagging))
    return tenants


def _landings(build: Build) -> Iterator[tuple[str, Relation]]:
    """The landing datasources, by name."""
    return ((n, r) for n, r in sorted(build.relations.items()) if r.kind == "landing")


def _tenant_by_nest(snapshot: Snapshot) -> dict[str, str]:
    """Tenants by the database of their nest."""
    tenants = {t.nest(snapshot.build.workspace): t.id for t in snapshot.tenants.values()}
    return {nest: tenant for nest, tenant in tenants.items() if nest is not None}


def _direct(snapshot: Snapshot, name: str, missing: Collection[str]) -> dict[str, Any]:
    """A direct datasource as JSON. It has no lag: its views run within each insert."""
    own = {t.id for t in snapshot.tenants.values() if t.placement == "tables" and t.state == "ready"}
    in_step = len(own - set(missing))
    return {"datasource": name, "mode": "direct", "rows": 0, "seconds": 0.0, "in_step": in_step, "strays": []}


def lag_by_datasource(workspace: Workspace) -> Iterator[tuple[str, Lag, int]]:
    """For each landing datasource: its name, the lag of the main group, and the number of lagging tenants."""
    snapshot = workspace.current
    positions = router_of(workspace).positions()
    for name, relation in _landings(snapshot.build):
        position = positions.get(name)
        if position is None:
            yield name, Lag(), 0
        else:
            log = LandingLog(workspace.warehouse, workspace.name, relation)
            yield name, _main_lag(log, position), sum(len(c.members) for c in position.lagging)


def _main_lag(log: LandingLog, position: Position) -> Lag:
    """The lag of the tenants that keep up: the rows that are being delivered to them."""
    outstanding = _outstanding(log, position.main).values()
    rows, oldest = sum(rows for rows, _ in outstanding), max((age for _, age in outstanding), default=0.0)
    # Landing stores the time in whole seconds. The worker's measurement is more precise, but includes rows that no
    # tenant in the main group will receive.
    return Lag(rows, max(position.seconds, oldest)) if rows else Lag()


def _routed(log: LandingLog, position: Position, missing: Collection[str]) -> dict[str, Any]:
    """A routed datasource as JSON."""
    lag = _main_lag(log, position)
    return {
        "datasource": log.relation.name,
        "mode": "routed",
        "rows": lag.rows,
        "seconds": lag.seconds,
        "in_step": len(position.main.members - set(missing)),
        "strays": [t for group in position.lagging for t in _lagging_tenants(log, group)],
    }


def _outstanding(log: LandingLog, group: ConsumerGroup) -> dict[str, tuple[int, float]]:
    """Outstanding rows and the age of the oldest in seconds, by tenant of a group."""
    named = group.members if len(group.members) <= MAX_NAMED_TENANTS else None
    outstanding = log.outstanding(group.offset.at, group.offset.acked, named)
    return {tenant: lag for tenant, lag in outstanding.items() if tenant in group.members}


def _lagging_tenants(log: LandingLog, group: ConsumerGroup) -> Iterator[dict[str, Any]]:
    """The tenants of a lagging group as JSON."""
    outstanding = _outstanding(log, group)
    since = datetime.fromtimestamp(group.since, UTC).isoformat(timespec="seconds")
    for tenant in sorted(group.members):
        rows, seconds = outstanding.get(tenant, (0, 0.0))
        yield {
            "tenant": tenant,
            "error": group.error or None,
            "tries": group.tries,
            "since": since,
            "rows": rows,
            "seconds": seconds,
            "at": group.offset.at,
            "piece": _log_range(group.offset.log_range),
        }


def _log_range(log_range: LogRange | None) -> dict[str, Any] | None:
    """The range that may have been delivered in part: batches, or a range of blocks without some batches."""
    if log_range is None:
        return None
    if log_range.upto is None:
        return {"batches": list(log_range.batches)}
    return {"blocks": [log_range.after + 1, log_range.upto], "without": list(log_range.skipped)}


def _tenants_of_view(snapshot: Snapshot, view: str) -> list[str]:
    """Tenants whose rows a view delivers; `view` is its full name."""
    database, _, name = view.partition(".")
    owner = _tenant_by_nest(snapshot).get(database)
    if owner is not None:
        return [owner]
    shared = workspace_schema(snapshot.build).views.get(Name(database, name))
    pipe = snapshot.build.pipes.get(shared.mark.resource) if shared is not None and shared.mark is not None else None
    if pipe is None or pipe.target is None or not pipe.target.per_tenant:
        return []
    return [t.id for t in snapshot.tenants.values() if t.placement == "pooled"]


def _tenants_missing_rows(snapshot: Snapshot, views: Collection[str]) -> dict[str, set[str]]:
    """Tenants that miss rows because one of the views in their nest is suspended, by landing datasource."""
    tenants: dict[str, set[str]] = {}
    nests = _tenant_by_nest(snapshot)
    for view in views:
        tenant = nests.get(view.partition(".")[0])
        if tenant is not None:
            for landing in _landings_behind(snapshot, tenant, view):
                tenants.setdefault(landing, set()).add(tenant)
    return tenants


def _landings_behind(snapshot: Snapshot, tenant: str, view: str) -> set[str]:
    """Landing datasources whose rows a view of a nest delivers, directly or through other views of the nest."""
    build = snapshot.build
    views = nest_schema(build, tenant, snapshot.routed).views
    nest = nest_database(build.workspace, tenant)
    pending = [v.source for n, v in views.items() if str(n) == view]
    landings: set[str] = set()
    seen: set[Name] = set()
    while pending:
        source = pending.pop()
        if source in seen:
            continue
        seen.add(source)
        if build.relations[source.name].kind == "landing":
            landings.add(source.name)
        elif source.database == nest:
            pending += [v.source for v in views.values() if v.target == source]
    return landings
