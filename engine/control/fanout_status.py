"""Where the fan-out stands: how far nests are behind landing, who has failed and why, and which views are down."""

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
from engine.fanout.suspended_views import suspended
from engine.fanout.worker import Position
from engine.schema import Name, nest_database
from engine.workspace.snapshot import Snapshot
from engine.workspace.workspace import Workspace

MAX_NAMED_TENANTS = 100
"""Tenants up to which a query names them; with more, the rows of all are counted."""


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a tenant's nest is behind: rows, seconds since the oldest of them, and what keeps it, if anything."""

    rows: int = 0
    seconds: float = 0.0
    error: str | None = None

    def joined(self, other: Lag) -> Lag:
        """The lag over two datasources."""
        return Lag(self.rows + other.rows, max(self.seconds, other.seconds), self.error or other.error)


def status(workspace: Workspace) -> dict[str, Any]:
    """Every landing datasource with its mode, its lag and the tenants that are not in step, and views that are down.

    Outstanding rows are counted in landing itself.
    """
    snapshot = workspace.refresh()
    positions = router_of(workspace).positions()
    down = suspended(workspace)
    missing = _missing(snapshot, [d["view"] for d in down])
    found = []
    for name, relation in _landings(snapshot.build):
        position = positions.get(name)
        if position is None:
            found.append(_direct(snapshot, name, missing.get(name, set())))
        else:
            log = LandingLog(workspace.warehouse, workspace.name, relation)
            found.append(_routed(log, position, missing.get(name, set())))
    return {"datasources": found, "suspended": down}


def retry(workspace: Workspace) -> dict[str, Any]:
    """Try at once what waits for its next try. Returns how many tenants that are, by datasource."""
    router = router_of(workspace)
    waiting = {name: sum(len(c.members) for c in p.lagging) for name, p in router.positions().items()}
    router.retry_now()
    return {"retried": {name: count for name, count in waiting.items() if count}}


def lags(workspace: Workspace) -> dict[str, Lag]:
    """The lag of every tenant that has one, over all landing datasources."""
    found: dict[str, Lag] = {}

    def add(tenant: str, lag: Lag) -> None:
        found[tenant] = found.get(tenant, Lag()).joined(lag)

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
        what = "goes on without this tenant" if view.get("without") else "is down"
        for tenant in view.get("without") or _waiting(snapshot, view["view"]):
            add(tenant, Lag(error=f"{view['view']} {what}: {view['error']}"))
    return found


def lagging(workspace: Workspace) -> dict[str, set[str]]:
    """Tenants that are known to lack rows, by landing datasource."""
    found = _missing(workspace.current, [v["view"] for v in suspended(workspace)])
    for name, position in router_of(workspace).positions().items():
        found.setdefault(name, set()).update(*(c.members for c in position.lagging))
    return found


def _landings(build: Build) -> Iterator[tuple[str, Relation]]:
    return ((n, r) for n, r in sorted(build.relations.items()) if r.kind == "landing")


def _nests(snapshot: Snapshot) -> dict[str, str]:
    """Tenants by the database of their nest."""
    found = {t.nest(snapshot.build.workspace): t.id for t in snapshot.tenants.values()}
    return {nest: tenant for nest, tenant in found.items() if nest is not None}


def _direct(snapshot: Snapshot, name: str, missing: Collection[str]) -> dict[str, Any]:
    own = {t.id for t in snapshot.tenants.values() if t.placement == "tables" and t.state == "ready"}
    in_step = len(own - set(missing))
    return {"datasource": name, "mode": "direct", "rows": 0, "seconds": 0.0, "in_step": in_step, "strays": []}


def lag_by_datasource(workspace: Workspace) -> Iterator[tuple[str, Lag, int]]:
    """For each landing datasource, the lag of the tenants in step and how many others there are."""
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
    outstanding = _outstanding(log, position.main).values()
    rows, oldest = sum(rows for rows, _ in outstanding), max((age for _, age in outstanding), default=0.0)
    # Landing tells the time in whole seconds. The lane knows better, but also of rows that nobody in step awaits.
    return Lag(rows, max(position.seconds, oldest)) if rows else Lag()


def _routed(log: LandingLog, position: Position, missing: Collection[str]) -> dict[str, Any]:
    lag = _main_lag(log, position)
    return {
        "datasource": log.relation.name,
        "mode": "routed",
        "rows": lag.rows,
        "seconds": lag.seconds,
        "in_step": len(position.main.members - set(missing)),
        "strays": [s for group in position.lagging for s in _strays(log, group)],
    }


def _outstanding(log: LandingLog, group: ConsumerGroup) -> dict[str, tuple[int, float]]:
    named = group.members if len(group.members) <= MAX_NAMED_TENANTS else None
    found = log.outstanding(group.offset.at, group.offset.acked, named)
    return {tenant: lag for tenant, lag in found.items() if tenant in group.members}


def _strays(log: LandingLog, group: ConsumerGroup) -> Iterator[dict[str, Any]]:
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
            "piece": _piece(group.offset.log_range),
        }


def _piece(piece: LogRange | None) -> dict[str, Any] | None:
    """The piece that may have arrived in part: batches, or a range of blocks without some batches."""
    if piece is None:
        return None
    if piece.upto is None:
        return {"batches": list(piece.batches)}
    return {"blocks": [piece.after + 1, piece.upto], "without": list(piece.without)}


def _waiting(snapshot: Snapshot, view: str) -> list[str]:
    """Tenants whose rows go through a view."""
    database, _, name = view.partition(".")
    own = _nests(snapshot).get(database)
    if own is not None:
        return [own]
    pooled = workspace_schema(snapshot.build).views.get(Name(database, name))
    pipe = snapshot.build.pipes.get(pooled.mark.resource) if pooled is not None and pooled.mark is not None else None
    if pipe is None or pipe.target is None or not pipe.target.per_tenant:
        return []
    return [t.id for t in snapshot.tenants.values() if t.placement == "pooled"]


def _missing(snapshot: Snapshot, views: Collection[str]) -> dict[str, set[str]]:
    """Tenants that miss rows because a view is down, by landing datasource."""
    found: dict[str, set[str]] = {}
    nests = _nests(snapshot)
    for text in views:
        tenant = nests.get(text.partition(".")[0])
        if tenant is not None:
            for landing in _sources(snapshot, tenant, text):
                found.setdefault(landing, set()).add(tenant)
    return found


def _sources(snapshot: Snapshot, tenant: str, text: str) -> set[str]:
    """Landing datasources whose rows come through a view of a nest."""
    build = snapshot.build
    views = nest_schema(build, tenant, snapshot.routed).views
    nest = nest_database(build.workspace, tenant)
    pending = [v.source for n, v in views.items() if str(n) == text]
    found: set[str] = set()
    seen: set[Name] = set()
    while pending:
        source = pending.pop()
        if source in seen:
            continue
        seen.add(source)
        if build.relations[source.name].kind == "landing":
            found.add(source.name)
        elif source.database == nest:
            pending += [v.source for v in views.values() if v.target == source]
    return found
