"""Erasing one tenant's rows from tables that tenants share."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from engine.compiler import storage
from engine.compiler.build import Build
from engine.compiler.scope import Relation, tenant_literal
from engine.control.regroup import incomplete_groups, is_in_groups, recompute_groups
from engine.errors import DESTRUCTIVE, RookeryError
from engine.plan.coverage import Coverage
from engine.plan.progress import Progress, silent
from engine.schema import Name, View, literal, quote
from engine.warehouse.catalog import read_schema
from engine.warehouse.deletion import wait_until_deleted
from engine.workspace.journal import RegistryJournal
from engine.workspace.workspace import Workspace

ERASURE_KIND = "erasing"
"""The registry's kind for running erasures, by tenant, with the views whose sources were complete at the
beginning.
"""


def permit_erasure(workspace: Workspace, build: Build, tenant: str, allow: Collection[str]) -> None:
    """Raise RK3001 if shared aggregates would lose other tenants' rows and are not in `allow`. Records the erasure.

    An interrupted erasure has already been permitted. When it continues, the rows that it has deleted must not count
    as lost, so the record lists the views whose sources were complete.
    """
    if tenant in workspace.registry.read(ERASURE_KIND):
        return
    refused = {n: why for n, why in incomplete_groups(workspace, build, tenant).items() if n not in allow}
    if refused:
        flags = " ".join(f"--allow-destructive {n}" for n in refused)
        raise RookeryError(
            DESTRUCTIVE,
            "\n".join(
                f"erasing tenant `{tenant}` recomputes its groups of `{name}`, and other tenants' rows in them "
                f"would be lost: {why}"
                for name, why in refused.items()
            ),
            hint=f"to allow it: rookery tenant rm {tenant} --purge {flags}",
        )
    names = [str(v.name) for v in _complete_views(workspace)]
    workspace.registry.write(ERASURE_KIND, {tenant: {"complete": names}})


def _complete_views(workspace: Workspace) -> list[View]:
    """Views in the workspace's database whose sources still have all rows from which their targets were computed."""
    live = read_schema(workspace.warehouse, workspace.name, [workspace.name])
    coverage = Coverage(workspace.warehouse, workspace.registry, live)
    return [v for v in live.views.values() if v.source in live.tables and coverage.why_incomplete(v) is None]


def erase(workspace: Workspace, build: Build, tenant: str, progress: Progress = silent) -> None:
    """Erase a tenant's rows from all shared tables, quarantines and aggregates. `permit_erasure` comes first."""
    complete = {*workspace.registry.read(ERASURE_KIND)[tenant]["complete"]}
    relations = [r for r in build.relations.values() if r.tenant]
    # Appends that are accepted already may add rows to quarantine, and replays send rows that they have read there.
    # So both are waited for again if quarantine has no rows of the tenant.
    quarantines = [r for r in relations if build.takes(r.name)]
    steps = len(quarantines) + len(relations) + 3
    progress("wait for appends", 0, steps)
    _wait_for_appends(workspace)
    for number, relation in enumerate(quarantines, 1):
        progress(f"erase quarantine of {relation.name}", number, steps)
        _erase_quarantine(workspace, relation, tenant)
    progress("wait for appends", len(quarantines) + 1, steps)
    _wait_for_appends(workspace)
    for number, relation in enumerate(relations, len(quarantines) + 2):
        progress(f"erase rows of {relation.name}", number, steps)
        delete_tenant_rows(workspace, relation, tenant)
    progress("recompute shared groups", steps - 1, steps)
    live = read_schema(workspace.warehouse, workspace.name, [workspace.name]).views.values()
    # The erased blocks count as consumed, so sources that were complete count as complete without them.
    RegistryJournal(workspace.registry).record_consumed([v for v in live if str(v.name) in complete], ())
    recompute_groups(workspace, build, tenant)
    # Done last: until then, `tenant rm --purge` can be repeated without a new permission.
    workspace.registry.remove(ERASURE_KIND, [tenant])


def has_rows(workspace: Workspace, build: Build, tenant: str) -> bool:
    """Whether a purge of a tenant that does not exist has work: rows with its id in any table, including quarantine
    and shared aggregates, or an unfinished purge. Waits for appends that were accepted before.
    """
    if tenant in workspace.registry.read(ERASURE_KIND):
        return True
    _wait_for_appends(workspace)
    return is_in_groups(workspace, build, tenant) or any(
        workspace.warehouse.query(f"SELECT 1 FROM {table.sql()} WHERE {condition} LIMIT 1").rows
        for relation in build.relations.values()
        if relation.tenant
        for table, condition in _rows_of(workspace, build, relation, tenant)
    )


def _rows_of(workspace: Workspace, build: Build, relation: Relation, tenant: str) -> Iterator[tuple[Name, str]]:
    """The tables of the workspace's own database with a tenant's rows, each with the condition that selects them."""
    yield _stored(workspace, relation, tenant)
    if build.takes(relation.name):
        yield _quarantined(workspace, relation, tenant)


def _wait_for_appends(workspace: Workspace) -> None:
    """Wait until appends that were accepted before are stored everywhere. Raises RK5013, RK6003 or RK6008."""
    workspace.pending_appends.drain()
    complete_uncertain(workspace)


def complete_uncertain(workspace: Workspace) -> None:
    """Complete uncertain batches, which are inserted into landing again. Raises RK5013 or RK6008."""
    with workspace.view_lock.changing():
        workspace.view_lock.completion.complete_all()


def _erase_quarantine(workspace: Workspace, relation: Relation, tenant: str) -> None:
    """Delete a tenant's rows, and those that its tokens have sent, from the quarantine of a datasource."""
    delete_rows(workspace, *_quarantined(workspace, relation, tenant))


def _quarantined(workspace: Workspace, relation: Relation, tenant: str) -> tuple[Name, str]:
    """The quarantine of a datasource, and the condition for a tenant's rows and those that its tokens have sent."""
    condition = f"{quote(relation.tenant or '')} = {literal(tenant)} OR c__writer = {literal(tenant)}"
    return Name(workspace.name, relation.name + storage.QUARANTINE_SUFFIX), condition


def delete_tenant_rows(workspace: Workspace, relation: Relation, tenant: str) -> None:
    """Delete a tenant's rows from one table of the workspace's own database. Raises RK3010."""
    delete_rows(workspace, *_stored(workspace, relation, tenant))


def _stored(workspace: Workspace, relation: Relation, tenant: str) -> tuple[Name, str]:
    """The table of a relation in the workspace's own database, and the condition for a tenant's rows."""
    assert relation.tenant is not None
    condition = f"{quote(relation.tenant)} = {tenant_literal(relation.tenant_type, tenant)}"
    return Name(workspace.name, relation.name), condition


def delete_rows(workspace: Workspace, table: Name, condition: str) -> None:
    """Delete rows and wait until they are gone. Raises RK3010 if the engine does not complete it."""
    # The next call waits: unlike the statement, it makes the engine begin at once and reports the latest failure.
    workspace.warehouse.execute(f"ALTER TABLE {table.sql()} DELETE WHERE {condition} SETTINGS mutations_sync = 0")
    wait_until_deleted(workspace.warehouse, table)


def forget_keys(workspace: Workspace, purged: Collection[str]) -> None:
    """Delete the idempotency keys of purged tenants: those of their tokens, and those of requests to landing
    datasources with rows of one of them only. Raises RK3010.
    """
    if purged:
        ids = f"[{', '.join(map(literal, sorted(purged)))}]"
        # Apart from ids of tenants, `tenants` has a key that begins with a control character.
        of_request = "arrayFilter(_rk_t -> _rk_t >= ' ', JSONExtractKeys(tenants))"
        only = f"length({of_request}) = 1 AND hasAny({of_request}, {ids})"
        table = Name(workspace.name, storage.RECEIPTS_TABLE)
        delete_rows(workspace, table, f"has({ids}, owner) OR (owner = '' AND logged AND {only})")
