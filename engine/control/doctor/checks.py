"""The checks of `doctor` that ask the catalogue and the journals, and read no rows."""

from __future__ import annotations

from collections.abc import Iterator

from engine.compiler import storage
from engine.control.doctor.detached_parts import listed
from engine.control.doctor.findings import Context, Finding, error, warning
from engine.control.tenants import ERASURE_KIND
from engine.errors import POOLED_ONLY
from engine.fanout.expiring import expiring
from engine.fanout.landing_log import LandingLog
from engine.fanout.router import router_of
from engine.fanout.suspended_views import suspended
from engine.fanout.uncertain_batches import uncertain_batches_of
from engine.project.check import check
from engine.project.lifetimes import DAY_SECONDS, shortest_lifetime
from engine.schema import Name, Table
from engine.workspace.disk import NEARLY_FULL_RESERVES, damaged_parts, reserve_of
from engine.workspace.journal import RegistryJournal

DEDUP_WINDOW_SETTING = "non_replicated_deduplication_window"
MAX_PARTS_PER_PARTITION = 300
"""Parts of one partition from which on merges do not keep up with inserts."""
_OURS = "(database = {w:String} OR startsWith(database, concat({w:String}, '_nest')))"


def landing_layout(patient: Context) -> Iterator[Finding]:
    """Fan-out reads landing as a log, which only this layout is."""
    remedy = "it cannot be changed in place: append its rows to a new datasource"
    for _, table in patient.landings():
        if table.engine != "MergeTree":
            why = f"its engine is {table.engine}, which removes rows before every tenant has received them"
            yield error("landing-layout", table.name, why, remedy)
        given = dict(table.settings)
        lacking = [key for key, value in storage.LOG_SETTINGS if given.get(key) != value]
        if lacking:
            yield error("landing-layout", table.name, f"without {', '.join(lacking)} it is no log", remedy)
        hidden = [c.name for c in storage.HIDDEN_COLUMNS if table.column(c.name) is None]
        if hidden:
            yield error("landing-layout", table.name, f"it lacks the columns {', '.join(hidden)}", remedy)
        yield from _window("landing-layout", table, storage.LANDING_DEDUP_WINDOW)


def nest_window(patient: Context) -> Iterator[Finding]:
    """Tables of nests recognise what they have by a window of tokens."""
    for _, live in patient.nests():
        yield from _window("nest-window", live, storage.NEST_DEDUP_WINDOW)


def _window(check: str, table: Table, wanted: int) -> Iterator[Finding]:
    found = int(dict(table.settings).get(DEDUP_WINDOW_SETTING, "0"))
    if found < wanted:
        why = f"its deduplication window is {found}, and {wanted} is needed: rows that come again would be doubled"
        yield error(
            check, table.name, why, f"ALTER TABLE {table.name.sql()} MODIFY SETTING {DEDUP_WINDOW_SETTING} = {wanted}"
        )


def landing_ttl(patient: Context) -> Iterator[Finding]:
    """Rows must outlive the fan-out's lag."""
    for _, table in patient.landings():
        life = shortest_lifetime(table.ttl)
        if life is not None and life < DAY_SECONDS:
            why = f"its TTL ({table.ttl}) is shorter than a day: rows may go before every tenant has received them"
            yield error("landing-ttl", table.name, why, "give it a longer one in its file, and push")


def nest_constraint(patient: Context) -> Iterator[Finding]:
    """The second wall: a nest's table refuses rows of another tenant."""
    for table, live in patient.nests():
        lacking = {name for name, _ in table.constraints} - {name for name, _ in live.constraints}
        for name in sorted(lacking):
            expression = dict(table.constraints)[name]
            remedy = f"ALTER TABLE {live.name.sql()} ADD CONSTRAINT {name} CHECK {expression}"
            yield error("nest-constraint", live.name, f"constraint `{name}` is gone: it takes anybody's rows", remedy)


def disk(patient: Context) -> Iterator[Finding]:
    """A disk that is full or nearly so."""
    space = patient.workspace.warehouse.disk_space()
    if space is None:
        return
    reserve = reserve_of(patient.workspace, space)
    why = f"{space.free >> 20:,} MiB of {space.total >> 20:,} are free"
    remedy = "free space on this disk; the reserve is ROOKERY_MIN_FREE"
    if space.free < reserve:
        yield error("disk", space.path, f"{why}: rows are refused", remedy)
    elif space.free < NEARLY_FULL_RESERVES * reserve:
        yield warning("disk", space.path, f"{why}: below {reserve >> 20:,} MiB rows are refused", remedy)


def damaged(patient: Context) -> Iterator[Finding]:
    """Parts that cannot be read."""
    for found in damaged_parts(patient.workspace):
        yield error(
            "damaged-part",
            found.table,
            f"part {found.part} is damaged: {found.why}",
            "bring its files back from a backup; or drop the part, and `rookery doctor --deep` tells what is missing",
        )


def doubtful(patient: Context) -> Iterator[Finding]:
    """Batches that are stored and perhaps not in every table that is made from them."""
    for doubt in uncertain_batches_of(patient.workspace).outstanding():
        batch = doubt.batch or "of the last run"
        why = f"batch {batch} is not in every table, after {doubt.tries} tries: {doubt.error}"
        remedy = "it is tried again by itself, and nothing else is stored before; remove the cause"
        yield error("batch-in-doubt", Name(patient.workspace.name, doubt.datasource), why, remedy)


def detached_parts(patient: Context) -> Iterator[Finding]:
    """Rows that were put aside: into landing they cannot come back in place."""
    found = listed(patient.workspace.warehouse, _OURS, {"w": patient.workspace.name})
    landings = {table.name for _, table in patient.landings()}
    for where, parts in sorted(found.items()):
        reason = next((p.reason for p in parts if p.reason), "")
        why = f"{len(parts)} parts are detached, {parts[0].name} first" + (f" ({reason})" if reason else "")
        if where in landings:
            remedy = "never attach them: their rows would be delivered again. Append their rows as new ones"
            yield error("detached-parts", where, why, remedy)
        else:
            remedy = (
                "rookery doctor --repair: it attaches parts whose rows are missing, and drops what is there already"
            )
            yield warning("detached-parts", where, why, remedy)


def attached_parts(patient: Context) -> Iterator[Finding]:
    """Attaching gives all rows of a part one new block number, so that readers take them for new.

    An insert is one block of one batch, so a block of several batches is an attached part.
    """
    for relation, table in patient.landings():
        if table.column(storage.BATCH_COLUMN) is None:
            continue
        found = patient.workspace.warehouse.query(
            f"SELECT _part FROM {table.name.sql()} WHERE _part IN (SELECT name FROM system.parts "
            "WHERE active AND database = {d:String} AND table = {t:String} AND min_block_number = max_block_number) "
            f"GROUP BY _part HAVING uniqExact({storage.BATCH_COLUMN}) > 1 ORDER BY _part",
            {"d": table.name.database, "t": table.name.name},
        )
        remedy = f"rookery doctor --deep tells whose copies of {relation.name} differ"
        for (part,) in found.rows:
            why = f"part {part} was attached: its rows have been delivered once more, or will be"
            yield error("attached-parts", table.name, why, remedy)


def many_parts(patient: Context) -> Iterator[Finding]:
    """With too many parts the engine first slows inserts down and then refuses them."""
    found = patient.workspace.warehouse.query(
        f"SELECT database, table, partition, count() AS parts FROM system.parts WHERE active AND {_OURS} "
        "GROUP BY database, table, partition HAVING parts >= {most:UInt64} ORDER BY parts DESC",
        {"w": patient.workspace.name, "most": MAX_PARTS_PER_PARTITION},
    )
    for database, table, partition, parts in found.rows:
        why = f"{parts} parts in partition {partition}: merges do not keep up"
        yield warning("many-parts", Name(database, table), why, "send fewer and larger batches, or wait for merges")


def foreign_views(patient: Context) -> Iterator[Finding]:
    """A view that is not ours runs with every insert, and its failure is everybody's."""
    found = patient.workspace.warehouse.query(
        "SELECT name, d, v FROM system.tables ARRAY JOIN dependencies_database AS d, dependencies_table AS v "
        "WHERE database = {w:String} ORDER BY name, d, v",
        {"w": patient.workspace.name},
    )
    landings = {table.name.name for _, table in patient.landings()}
    for source, database, name in found.rows:
        view = Name(database, name)
        if source in landings and view not in patient.live.views:
            why = f"it reads from {source} and was not made by this workspace; if it fails, so do appends"
            yield warning("foreign-view", view, why, f"drop it, or make it a pipe over {source}")


def cursors(patient: Context) -> Iterator[Finding]:
    """A cursor beyond the newest block would pass over rows that are yet to come."""
    journal = router_of(patient.workspace).journal
    for relation, table in patient.landings():
        if relation.name not in patient.snapshot.routed:
            continue
        head = LandingLog(patient.workspace.warehouse, patient.workspace.name, relation).head()
        main, own = journal.read(relation.name)
        ahead = {"the main cursor": main} if main else {}
        ahead |= {f"the cursor of tenant {tenant}": cursor for tenant, cursor in own.items()}
        # The head is asked first: what is written down meanwhile is not beyond it for long.
        late = LandingLog(patient.workspace.warehouse, patient.workspace.name, relation).head()
        for whose, cursor in sorted(ahead.items()):
            if cursor.at > max(head, late):
                why = f"{whose} is at block {cursor.at}, and the newest is {late}: the newest blocks were taken away"
                yield error("cursor", table.name, why, "restart the server: it sets the cursor back")
        for tenant in sorted(own.keys() - patient.snapshot.tenants.keys()):
            why = f"tenant {tenant} has a cursor and does not exist"
            yield warning("cursor", table.name, why, "restart the server: it strikes it off")


def lagging(patient: Context) -> Iterator[Finding]:
    """Tenants whose tables do not take their rows."""
    for name, position in router_of(patient.workspace).positions().items():
        for group in position.lagging:
            for tenant in sorted(group.members) if group.error else ():
                why = f"the tables of tenant {tenant} refuse its rows, after {group.tries} tries: {group.error}"
                remedy = "mend the cause, then: rookery fanout retry"
                yield error("stray", Name(patient.workspace.name, name), why, remedy)


def suspended_views(patient: Context) -> Iterator[Finding]:
    """Views that failed and were taken down, or go on without some tenants."""
    for view in suspended(patient.workspace):
        without = ", ".join(view.get("without", ()))
        what = f"goes on without tenant {without} since" if without else "was taken down at"
        why = f"it {what} {view['since']}: {view['error']}"
        yield error("suspended-view", view["view"], why, "mend the cause, then: rookery fanout repair")


def expiring_rows(patient: Context) -> Iterator[Finding]:
    """Rows that suspended views lack, shortly before their source forgets them."""
    for found in expiring(patient.workspace, patient.live):
        whose = f" of tenant {found.tenant}" if found.tenant is not None else ""
        why = (
            f"it lacks {found.rows:,} rows{whose} that the TTL of {found.source} removes within a week, the first at "
            f"{found.first} UTC; then they cannot be delivered any more"
        )
        yield warning("expiring-rows", found.view, why, "remove the cause, then: rookery fanout repair")


def deployed_files(patient: Context) -> Iterator[Finding]:
    """Files deployed before a rule existed: they work as before, and the next push of them asks for a change."""
    for problem in check(patient.snapshot.build.project):
        where = str(problem.place or patient.workspace.name)
        yield error("deployed-files", where, f"{problem.code.id}: {problem.message}", problem.hint)


def undeclared_shares(patient: Context) -> Iterator[Finding]:
    """Pipes that share tenants' rows without saying so, deployed before that was refused."""
    for undeclared in patient.snapshot.build.undeclared:
        problem = undeclared.problem
        yield error("undeclared-share", undeclared.target, f"{problem.code.id}: {problem.message}", problem.hint)


def pooled_only(patient: Context) -> Iterator[Finding]:
    """Ordinary pipes over per-tenant targets, where some tenants' rows are in nests."""
    own = sorted(t.id for t in patient.snapshot.tenants.values() if t.placement == "tables")
    for found in patient.snapshot.build.warnings if own else ():
        if found.code is POOLED_ONLY:
            why = f"{found.message}; tenants with tables: {len(own)}"
            yield error("pooled-only", patient.workspace.name, why, found.hint)


def quarantined(patient: Context) -> Iterator[Finding]:
    """Rows that wait for somebody to mend or drop them."""
    found = patient.workspace.warehouse.query(
        "SELECT name, total_rows FROM system.tables "
        "WHERE database = {w:String} AND endsWith(name, {q:String}) AND total_rows > 0 ORDER BY name",
        {"w": patient.workspace.name, "q": storage.QUARANTINE_SUFFIX},
    )
    for table, rows in found.rows:
        live = patient.live.tables.get(Name(patient.workspace.name, table))
        if live is not None and live.mark is not None and live.mark.kind == "quarantine":
            why = f"{rows:,} rows of {live.mark.resource} are in quarantine"
            yield warning("quarantine", live.name, why, f"GET /v0/datasources/{live.mark.resource}/quarantine")


def orphans(patient: Context) -> Iterator[Finding]:
    """Objects of ours that neither the deployed files nor the tenants want."""
    known = _nests(patient)
    live, desired = patient.live, patient.desired
    state = {n for n, t in live.tables.items() if t.mark is not None and t.mark.kind == "state"}
    for name in sorted({*live.tables, *live.views} - {*desired.tables, *desired.views} - state):
        if name.database == patient.workspace.name or name.database in known:
            what = "view" if name in live.views else "table"
            yield warning("orphan", name, f"no file declares this {what} any more", "rookery plan --prune shows it")


def unknown_nests(patient: Context) -> Iterator[Finding]:
    """Nests of tenants that do not exist."""
    known = _nests(patient)
    marked = [(t.name.database, t.mark) for t in patient.live.tables.values()]
    marked += [(v.name.database, v.mark) for v in patient.live.views.values()]
    tenants = {database: mark.tenant for database, mark in marked if mark is not None and mark.tenant is not None}
    for database in sorted({*patient.live.databases, *tenants} - known - {patient.workspace.name}):
        tenant = tenants.get(database)
        why = f"the nest of tenant {tenant}, which does not exist" if tenant else "nobody's nest, and empty"
        yield warning("unknown-nest", database, why, "rookery plan --prune shows what would go")


def _nests(patient: Context) -> set[str]:
    found = {t.nest(patient.workspace.name) for t in patient.snapshot.tenants.values()}
    return {nest for nest in found if nest is not None}


def unfinished_tenants(patient: Context) -> Iterator[Finding]:
    """Tenants whose adding or removal was interrupted; no change is under way while this is asked."""
    erasing = patient.workspace.registry.read(ERASURE_KIND)
    for tenant in sorted(patient.snapshot.tenants.values(), key=lambda t: t.id):
        if tenant.state != "ready" and tenant.id not in erasing:
            verb = "rm" if tenant.state == "removing" else "add"
            why = f"it is still {tenant.state}, since {tenant.created_at}, and no command is working on it"
            yield error("unfinished-tenant", f"tenant {tenant.id}", why, f"rookery tenant {verb} {tenant.id}")
    for name in sorted(erasing):
        why = "erasing its rows was interrupted, and some of them may still be there"
        yield error("unfinished-tenant", f"tenant {name}", why, f"rookery tenant rm {name} --purge")


def unfinished_history(patient: Context) -> Iterator[Finding]:
    """Views whose targets lack some of the rows from before them; no change is under way while this is asked."""
    for note in RegistryJournal(patient.workspace.registry).outstanding():
        why = f"{len(note.ranges)} ranges of its history have not been delivered"
        yield error("unfinished-history", note.view, why, "rookery fanout repair")
