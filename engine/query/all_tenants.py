"""Queries over the rows of all tenants, while tenants are added and removed.

A tenant's rows are included from the moment it is ready until its removal begins. Before and after that its tables
have only some of its rows, so they are excluded as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from engine.compiler.placements import AllPlacements
from engine.errors import NOT_TOGETHER, RookeryError
from engine.workspace.snapshot import Snapshot, TenantRecord, per_snapshot
from engine.workspace.workspace import Workspace


class Closable(Protocol):
    """A result that must be closed."""

    def close(self) -> None: ...


Result = TypeVar("Result", bound=Closable)
MAX_TRIES = 3
"""How often a query is started before it fails because tenants keep changing."""


@per_snapshot
def placements_of_all_tenants(snapshot: Snapshot, max_nests: int) -> AllPlacements:
    """Where the rows of all ready tenants are."""
    tenants = sorted(snapshot.tenants.values(), key=lambda t: t.id)
    nests = [t.nest(snapshot.build.workspace) for t in tenants if t.state == "ready"]
    unready_pooled = tuple(t.id for t in tenants if t.placement == "pooled" and t.state != "ready")
    return AllPlacements(tuple(n for n in nests if n is not None), unready_pooled, max_nests)


def with_stable_tenants(workspace: Workspace, begin: Callable[[Snapshot, set[str]], Result]) -> Result:
    """The result of `begin`, which starts reading, for a snapshot whose tenants have not changed since.

    `begin` adds the names of the datasources that it reads to the set. If none of them is per-tenant, tenants may
    change. Raises what `begin` raises, and RK3013 when tenants change during every attempt.
    """
    error: RookeryError | None = None
    for _ in range(MAX_TRIES):
        snapshot, datasources_read = workspace.current, set[str]()
        try:
            result = begin(snapshot, datasources_read)
        except RookeryError as exc:
            # If a table was dropped during the query, that is not an error of the caller.
            if _is_valid(snapshot, workspace.current, datasources_read):
                raise
            error = exc
            continue
        if _is_valid(snapshot, workspace.current, datasources_read):
            return result
        result.close()
    raise RookeryError(
        NOT_TOGETHER,
        "tenants were being added or removed while the rows of all tenants were read",
        hint="repeat the request, or select a tenant",
    ) from error


def is_unchanged(tenant: str, before: Snapshot, after: Snapshot) -> bool:
    """Whether a tenant has neither been added nor removed between two snapshots, not even one after the other."""
    if before is after:
        return True
    same = before.tenants.get(tenant) == after.tenants.get(tenant)
    return same and after.touched.get(tenant, 0) <= before.version


def _is_valid(before: Snapshot, after: Snapshot, datasources_read: set[str]) -> bool:
    """Whether a query that was composed for one snapshot is also correct for the other."""
    return _same_tenants(before, after) or all(before.build.relations[n].kind != "target" for n in datasources_read)


def _same_tenants(before: Snapshot, after: Snapshot) -> bool:
    if before is after:
        return True
    touched = {i for i, version in after.touched.items() if version > before.version}
    ids = before.tenants.keys() | after.tenants.keys() | touched
    return all(_is_unaffected(before.tenants.get(i), after.tenants.get(i), i in touched) for i in ids)


def _is_unaffected(before: TenantRecord | None, after: TenantRecord | None, touched: bool) -> bool:
    """Whether a query composed for one record of a tenant is also correct for the other.

    A tenant that was `touched` may have been added and removed in between, or removed and added again.
    """
    if before == after and not touched:
        return True
    if before is not None and before.state == "ready":
        return False
    # The query excludes unready pooled tenants by name, and does not read nests that did not exist for it.
    excluded_by_name = before is not None and before.placement == "pooled"
    gone = before is not None and after is None
    return excluded_by_name or gone or (after is not None and after.placement == "tables")
