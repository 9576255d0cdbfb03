"""Checks the delivery of rows: batches, fan-out, views, history and quarantine. The checks read the registry's
records.
"""

from __future__ import annotations

from collections.abc import Iterator

from engine.compiler import storage
from engine.control.doctor.findings import Context, Finding, error, warning
from engine.fanout.expiring import expiring
from engine.fanout.landing_log import LandingLog
from engine.fanout.router import router_of
from engine.fanout.suspension_records import suspended
from engine.fanout.uncertain_batches import uncertain_batches_of
from engine.plurals import counted
from engine.schema import Name
from engine.workspace.journal import DEFERRED_KIND, RegistryJournal


def uncertain_batches(context: Context) -> Iterator[Finding]:
    """No stored batch is missing from a table derived from it."""
    for uncertain in uncertain_batches_of(context.workspace).outstanding():
        batch = uncertain.batch or "of the last run"
        why = f"batch {batch} is not in every table, after {uncertain.tries} tries: {uncertain.error}"
        remedy = "remove the cause; it is retried automatically, and no other batch is stored before it"
        yield error("batch-in-doubt", Name(context.workspace.name, uncertain.datasource), why, remedy)


def offsets(context: Context) -> Iterator[Finding]:
    """No offset is beyond the newest block, which would make fan-out skip future rows."""
    journal = router_of(context.workspace).offsets
    for relation, table in context.landings():
        if relation.name not in context.snapshot.routed:
            continue
        log = LandingLog(context.workspace.warehouse, context.workspace.name, relation)
        # The newest block is read before and after the offsets, because both advance while rows arrive.
        head_before = log.head()
        main, own = journal.read(relation.name)
        offset_by_owner = {"the main group": main} if main else {}
        offset_by_owner |= {f"tenant {tenant}": offset for tenant, offset in own.items()}
        head = max(head_before, log.head())
        for owner, offset in sorted(offset_by_owner.items()):
            if offset.at > head:
                why = f"the offset of {owner} is at block {offset.at}, and the newest is {head}: blocks were removed"
                yield error("cursor", table.name, why, "restart the server: it resets the offset")
        for tenant in sorted(own.keys() - context.snapshot.tenants.keys()):
            why = f"tenant {tenant} has an offset but does not exist"
            yield warning("cursor", table.name, why, "restart the server: it deletes the offset")


def lagging_tenants(context: Context) -> Iterator[Finding]:
    """No tenant's tables refuse its rows."""
    for name, position in router_of(context.workspace).positions().items():
        for group in position.lagging:
            for tenant in sorted(group.members) if group.error else ():
                why = f"the tables of tenant {tenant} refuse its rows, after {group.tries} tries: {group.error}"
                remedy = "fix the cause, then: rookery fanout retry"
                yield error("stray", Name(context.workspace.name, name), why, remedy)


def suspended_views(context: Context) -> Iterator[Finding]:
    """No view is suspended or excludes a tenant."""
    for note in suspended(context.workspace):
        tenants = ", ".join(note.get("without", ()))
        event = f"has excluded tenant {tenants} since" if tenants else "was suspended at"
        why = f"it {event} {note['since']}: {note['error']}"
        yield error("suspended-view", note["view"], why, "fix the cause, then: rookery fanout repair")


def deferred_views(context: Context) -> Iterator[Finding]:
    """No view waits for its tenant to catch up."""
    for view, note in sorted(context.workspace.registry.read(DEFERRED_KIND).items()):
        yield error(
            "deferred-view",
            view,
            f"it is not created yet: tenant {note['tenant']} has not received all of its rows, and the view would "
            f"deliver them twice; waiting since {note['since']}",
            "it is created automatically when the tenant has caught up; what delays the tenant is a separate finding",
        )


def expiring_rows(context: Context) -> Iterator[Finding]:
    """No row that a suspended view has missed is about to expire in its source."""
    for lack in expiring(context.workspace, context.live):
        owner = f" of tenant {lack.tenant}" if lack.tenant is not None else ""
        rows = counted(lack.rows, "row") + owner
        why = (
            f"it lacks {rows} that the TTL of {lack.source} removes within a week, the first at {lack.first} UTC; "
            "after that they cannot be delivered"
        )
        yield warning("expiring-rows", lack.view, why, "remove the cause, then: rookery fanout repair")


def quarantined(context: Context) -> Iterator[Finding]:
    """No row is in quarantine, waiting to be corrected or dropped."""
    result = context.workspace.warehouse.query(
        "SELECT name, total_rows FROM system.tables "
        "WHERE database = {w:String} AND endsWith(name, {q:String}) AND total_rows > 0 ORDER BY name",
        {"w": context.workspace.name, "q": storage.QUARANTINE_SUFFIX},
    )
    for table, rows in result.rows:
        live = context.live.tables.get(Name(context.workspace.name, table))
        if live is not None and live.mark is not None and live.mark.kind == "quarantine":
            why = f"{counted(rows, 'row')} of {live.mark.resource} in quarantine"
            yield warning("quarantine", live.name, why, f"rookery quarantine ls {live.mark.resource}")


def unfinished_history(context: Context) -> Iterator[Finding]:
    """Every target has the history of its view. This check runs only while no change is running."""
    for note in RegistryJournal(context.workspace.registry).outstanding():
        why = f"its backfill has not delivered {counted(len(note.ranges), 'range')} of blocks"
        yield error("unfinished-history", note.view, why, "rookery fanout repair")
