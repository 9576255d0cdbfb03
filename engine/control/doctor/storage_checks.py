"""Checks tables, parts and the disk. The checks read the catalog and system tables, but no rows."""

from __future__ import annotations

from collections.abc import Iterator

from engine.compiler import storage
from engine.control.doctor.detached_parts import detached_by_table
from engine.control.doctor.findings import Context, Finding, error, warning
from engine.plan.conversions import failed_conversions
from engine.plurals import counted
from engine.project.lifetimes import DAY_SECONDS, shortest_lifetime
from engine.schema import Name, Table
from engine.warehouse import ddl
from engine.warehouse.errors import sentence
from engine.workspace.disk import NEARLY_FULL_RESERVES, OWN_DATABASES, damaged_parts, part_counts, reserve_of
from engine.workspace.journal import RESTORED_KIND

DEDUP_WINDOW_SETTING = "non_replicated_deduplication_window"
MAX_PARTS_PER_PARTITION = 300
"""With this many parts in one partition, merges do not keep up with inserts."""


def landing_layout(context: Context) -> Iterator[Finding]:
    """Landing tables have the layout of a log; fan-out reads them by block number."""
    remedy = "it cannot be changed in place: append its rows to a new datasource"
    for _, table in context.landings():
        if table.engine != "MergeTree":
            why = f"its engine is {table.engine}, which removes rows before every tenant has received them"
            yield error("landing-layout", table.name, why, remedy)
        settings = dict(table.settings)
        absent = [key for key, value in storage.LOG_SETTINGS if settings.get(key) != value]
        if absent:
            why = f"without {', '.join(absent)} it cannot be read as a log"
            yield error("landing-layout", table.name, why, remedy)
        hidden = [c.name for c in storage.HIDDEN_COLUMNS if table.column(c.name) is None]
        if hidden:
            yield error("landing-layout", table.name, f"it lacks the columns {', '.join(hidden)}", remedy)
        yield from _dedup_window("landing-layout", table, storage.LANDING_DEDUP_WINDOW)


def nest_window(context: Context) -> Iterator[Finding]:
    """Tables in nests remember enough deduplication tokens to recognize a repeated delivery."""
    for _, live in context.nest_tables():
        yield from _dedup_window("nest-window", live, storage.NEST_DEDUP_WINDOW)


def _dedup_window(check: str, table: Table, needed: int) -> Iterator[Finding]:
    window = int(dict(table.settings).get(DEDUP_WINDOW_SETTING, "0"))
    if window < needed:
        why = (
            f"its deduplication window is {window}, and {needed} is needed: rows that are delivered again would be "
            "stored twice"
        )
        remedy = ddl.modify_setting(table.name, DEDUP_WINDOW_SETTING, str(needed))
        yield error(check, table.name, why, remedy)


def landing_ttl(context: Context) -> Iterator[Finding]:
    """Rows stay in landing for longer than fan-out can lag behind."""
    for _, table in context.landings():
        lifetime = shortest_lifetime(table.ttl)
        if lifetime is not None and lifetime < DAY_SECONDS:
            why = (
                f"its TTL ({table.ttl}) is shorter than a day: rows may expire before every tenant has received them"
            )
            yield error("landing-ttl", table.name, why, "set a longer TTL in its file, and push")


def nest_constraint(context: Context) -> Iterator[Finding]:
    """Tables in nests have the constraint that refuses rows of another tenant."""
    for desired, live in context.nest_tables():
        absent = {name for name, _ in desired.constraints} - {name for name, _ in live.constraints}
        for name in sorted(absent):
            expression = dict(desired.constraints)[name]
            why = f"constraint `{name}` is missing: the table accepts rows of any tenant"
            remedy = f"ALTER TABLE {live.name.sql()} ADD CONSTRAINT {name} CHECK {expression}"
            yield error("nest-constraint", live.name, why, remedy)


def disk(context: Context) -> Iterator[Finding]:
    """The disk has space for more rows."""
    space = context.workspace.warehouse.disk_space()
    if space is None:
        return
    reserve = reserve_of(context.workspace, space)
    why = f"{space.free >> 20:,} MiB of {space.total >> 20:,} are free"
    remedy = "free space on this disk; the reserve is ROOKERY_MIN_FREE"
    if space.free < reserve:
        yield error("disk", space.path, f"{why}: rows are refused", remedy)
    elif space.free < NEARLY_FULL_RESERVES * reserve:
        yield warning("disk", space.path, f"{why}: below {reserve >> 20:,} MiB rows are refused", remedy)


def failed_conversion(context: Context) -> Iterator[Finding]:
    """The rows of all columns have the type that the catalog has."""
    for failed in failed_conversions(context.workspace.warehouse, context.workspace.name):
        why = f"rows of column `{failed.column}` cannot be converted from {failed.type}: {sentence(failed.reason)}"
        yield error("failed-conversion", failed.table, why, "rookery push, which changes the type back")


def damaged(context: Context) -> Iterator[Finding]:
    """All parts can be read."""
    for damage in damaged_parts(context.workspace):
        yield error(
            "damaged-part",
            damage.table,
            f"part {damage.part} is damaged: {damage.why}",
            (
                "restore its files from a backup; or drop the part and run "
                "`rookery doctor --deep`, which shows what is missing"
            ),
        )


def detached_parts(context: Context) -> Iterator[Finding]:
    """No part is detached. The rows of a detached part are missing. Parts of landing cannot simply be attached again:
    their rows would be delivered twice.
    """
    parts_by_table = detached_by_table(context.workspace.warehouse, OWN_DATABASES, {"w": context.workspace.name})
    landings = {table.name for _, table in context.landings()}
    for name, parts in sorted(parts_by_table.items()):
        reason = next((p.reason for p in parts if p.reason), "")
        why = f"{counted(len(parts), 'detached part')}, {parts[0].name} first" + (f" ({reason})" if reason else "")
        if name in landings:
            remedy = "do not attach them: their rows would be delivered again. Append their rows as new rows instead"
            yield error("detached-parts", name, why, remedy)
        else:
            remedy = "rookery doctor --repair: it attaches parts whose rows are missing, and drops the others"
            yield warning("detached-parts", name, why, remedy)


def attached_parts(context: Context) -> Iterator[Finding]:
    """No part was attached to landing: the engine gives its rows a new block number, and they are delivered again.

    An insert stores one block of one batch, so a block with rows of several batches is an attached part, or a part
    that `rookery restore` has restored.
    """
    restored = context.workspace.registry.read(RESTORED_KIND).get("blocks", {})
    for relation, table in context.landings():
        if table.column(storage.BATCH_COLUMN) is None:
            continue
        result = context.workspace.warehouse.query(
            f"SELECT _part FROM {table.name.sql()} WHERE _part IN (SELECT name FROM system.parts "
            "WHERE active AND database = {d:String} AND table = {t:String} AND min_block_number = max_block_number "
            "AND min_block_number > {r:UInt64}) "
            f"GROUP BY _part HAVING uniqExact({storage.BATCH_COLUMN}) > 1 ORDER BY _part",
            {"d": table.name.database, "t": table.name.name, "r": int(restored.get(relation.name, 0))},
        )
        for (part,) in result.rows:
            why = f"part {part} was attached: its rows have been delivered a second time, or will be"
            remedy = f"rookery doctor --deep shows whose copies of {relation.name} differ"
            yield error("attached-parts", table.name, why, remedy)


def many_parts(context: Context) -> Iterator[Finding]:
    """Merges keep up. With too many parts the engine first slows inserts down and then refuses them."""
    for count in part_counts(context.workspace, MAX_PARTS_PER_PARTITION):
        why = f"{counted(count.parts, 'part')} in partition {count.partition}: merges do not keep up"
        yield warning("many-parts", count.table, why, "send fewer and larger batches, or wait for merges")


def foreign_views(context: Context) -> Iterator[Finding]:
    """No view of another program reads landing. Such a view would run with every insert, and if it failed, the insert
    would fail.
    """
    result = context.workspace.warehouse.query(
        "SELECT name, d, v FROM system.tables ARRAY JOIN dependencies_database AS d, dependencies_table AS v "
        "WHERE database = {w:String} ORDER BY name, d, v",
        {"w": context.workspace.name},
    )
    landings = {table.name.name for _, table in context.landings()}
    for source, database, name in result.rows:
        view = Name(database, name)
        if source in landings and view not in context.live.views:
            why = f"it reads from {source} and was not created by this workspace; if it fails, appends fail"
            yield warning("foreign-view", view, why, f"drop it, or make it a pipe over {source}")
