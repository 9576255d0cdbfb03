"""Which tenants' rows a query without a tenant reads together, and whether that was still so when it began to read.

A tenant's rows count from the moment when it is ready until its removal begins. Before and after that its tables hold
a part of its rows, so they are left out as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from engine.compiler.placements import AllPlacements
from engine.errors import NOT_TOGETHER, RookeryError
from engine.workspace.workspace import Snapshot, TenantRecord, Workspace


class Closable(Protocol):
    """Something that ends."""

    def close(self) -> None: ...


Answered = TypeVar("Answered", bound=Closable)
MAX_TRIES = 3
"""How often a query is begun again when tenants were added or removed meanwhile."""


def everywhere(snapshot: Snapshot, most: int) -> AllPlacements:
    """Where the rows of all tenants are."""
    rows = sorted(snapshot.tenants.values(), key=lambda t: t.id)
    nests = [t.nest(snapshot.build.workspace) for t in rows if t.state == "ready"]
    unsettled = tuple(t.id for t in rows if t.placement == "pooled" and t.state != "ready")
    return AllPlacements(tuple(n for n in nests if n is not None), unsettled, most)


def consistently(workspace: Workspace, begin: Callable[[Snapshot, set[str]], Answered]) -> Answered:
    """What `begin` makes of a snapshot whose tenants are still the same when it has begun to read.

    `begin` is given a set for the names of the datasources that it reads; without per-tenant targets among them, the
    tenants do not matter. Raises what `begin` raises, and RK3013 when tenants change each time.
    """
    error: RookeryError | None = None
    for _ in range(MAX_TRIES):
        snapshot, read = workspace.current, set[str]()
        try:
            answer = begin(snapshot, read)
        except RookeryError as exc:
            if _holds(snapshot, workspace.current, read):
                raise
            error = exc
            continue
        if _holds(snapshot, workspace.current, read):
            return answer
        answer.close()
    raise RookeryError(
        NOT_TOGETHER,
        "tenants were being added or removed while all tenants' rows were read",
        hint="repeat the request, or select a tenant",
    ) from error


def _holds(before: Snapshot, after: Snapshot, read: set[str]) -> bool:
    return _same(before, after) or all(before.build.relations[n].kind != "target" for n in read)


def _same(before: Snapshot, after: Snapshot) -> bool:
    if before is after:
        return True
    since = {i for i, version in after.touched.items() if version > before.version}
    ids = before.tenants.keys() | after.tenants.keys() | since
    return all(_unaffected(before.tenants.get(i), after.tenants.get(i), i in since) for i in ids)


def _unaffected(before: TenantRecord | None, after: TenantRecord | None, touched: bool) -> bool:
    """Whether a query that was made for one state of a tenant holds for the other.

    A tenant that was `touched` may have come and gone in between, or the other way round.
    """
    if before == after and not touched:
        return True
    if before is not None and before.state == "ready":
        return False
    # What is left out of the shared tables by name stays out, and a nest that was not read cannot show.
    named = before is not None and before.placement == "pooled"
    gone = before is not None and after is None
    return named or gone or (after is not None and after.placement == "tables")
