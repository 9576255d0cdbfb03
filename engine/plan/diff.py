"""Compare the desired schema with the live one: a pure function that returns a plan.

Columns are added in place. A change that cannot be made in place rebuilds the table, and with it everything that is
derived from it. That is destructive, so it needs permission by the name of the resource. Whether the rows are
recomputed in full or lost depends on what the sources still have.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from engine.compiler.storage import NULL_ENGINE
from engine.plan.loss import Losses
from engine.plan.missing_blocks import MissedBlocks
from engine.plan.steps import (
    ROWS,
    CreateDatabase,
    CreateTable,
    CreateView,
    DropColumn,
    DropDatabase,
    DropTable,
    DropView,
    NoteFeeders,
    Plan,
    StartReaders,
    Step,
    resource_of,
    tenant_of,
)
from engine.plan.table_changes import TableComparison
from engine.schema import Name, Schema, View

CHANGED = "its query changed"
"""The reason why a target is recomputed. `push --skip-backfill` can keep such a target instead."""
Sizes = Callable[[Name], int]
"""Number of rows of a live table."""
Unstored = Callable[[Name], Collection[str]]
"""The columns of a live table that some of its parts do not have."""
WhyIncomplete = Callable[[View], str | None]
"""Why a view's source may have lost rows from which its target was computed; None if it has all of them."""


@dataclass(frozen=True, slots=True)
class DiffOptions:
    """What a plan depends on in addition to the two schemas."""

    prune: bool = False
    """Whether live objects that are not desired are dropped."""
    sizes: Sizes = lambda _: 0
    unstored: Unstored = lambda _: ()
    routed: Collection[str] = ()
    """Landing datasources whose nest copies a fan-out worker fills."""
    broken: Collection[Name] = ()
    """Suspended views that would fail again. They are not restored."""
    missing: Mapping[Name, tuple[MissedBlocks, ...]] = field(default_factory=dict)
    """Suspended views that are restored, with the blocks to deliver. Their targets stay."""
    continued: Collection[str] = ()
    """Pipes whose targets are kept although the query has changed. The new query applies only to new rows."""
    why_incomplete: WhyIncomplete = lambda _: None

    def is_continued(self, view: View) -> bool:
        """Whether the view belongs to a pipe in `continued`."""
        return resource_of(view) in self.continued


@dataclass(frozen=True, slots=True)
class _Comparison:
    """The two schemas, and the decisions made so far."""

    desired: Schema
    live: Schema
    options: DiffOptions
    rebuilt: dict[Name, Step] = field(default_factory=dict)
    """Tables that are dropped and created again, each with the cause."""
    changes: list[Step] = field(default_factory=list)
    """Changes in place."""

    @property
    def suspended(self) -> set[Name]:
        """Suspended views whose targets are not recomputed."""
        return {*self.options.broken, *self.options.missing}


def diff(desired: Schema, live: Schema, options: DiffOptions = DiffOptions()) -> Plan:
    """The steps that turn the live schema into the desired one."""
    comparison = _Comparison(desired, live, options)
    # The order matters: each of these adds tables to rebuild, and `_rebuild_downstream` follows from all of them.
    _compare_tables(comparison)
    _rebuild_for_changed_views(comparison)
    _rebuild_for_lost_views(comparison)
    _rebuild_downstream(comparison)
    Losses(desired, live, options.sizes, options.why_incomplete, options.routed).annotate(comparison.rebuilt)
    # Views are dropped before the tables that they read or fill, and created after them.
    steps = [
        *_databases_to_create(comparison),
        *_views_to_drop(comparison),
        *_tables_to_drop(comparison),
        # Before the copies exist: after a kill, a copy without an offset of its own would count as up to date.
        *_readers_to_start(comparison),
        *_tables_to_create(comparison),
        *comparison.changes,
        *_views_to_create(comparison),
        *_feeders_to_note(comparison),
        *_databases_to_drop(comparison),
    ]
    return Plan(tuple(steps))


def with_feeders(schema: Schema) -> Schema:
    """The schema with the names of the views that feed each table in the table's mark."""
    feeders: dict[Name, list[str]] = {}
    for name, view in schema.views.items():
        feeders.setdefault(view.target, []).append(name.name)
    tables = dict(schema.tables)
    for name, views in feeders.items():
        table = tables.get(name)
        if table is not None and table.mark is not None:
            tables[name] = replace(table, mark=replace(table.mark, feeders=tuple(sorted(views))))
    return Schema(schema.databases, tables, schema.views)


def _databases_to_create(comparison: _Comparison) -> Iterable[Step]:
    """Create the databases of new nests."""
    tenants = {name.database: tenant_of(table) for name, table in comparison.desired.tables.items()}
    for name in sorted(comparison.desired.databases - comparison.live.databases):
        yield CreateDatabase(name, "does not exist", tenant=tenants.get(name), database=name)


def _databases_to_drop(comparison: _Comparison) -> Iterable[Step]:
    """With `prune`, drop databases that are no longer declared. Their tables are dropped before."""
    for name in sorted(comparison.live.databases - comparison.desired.databases) if comparison.options.prune else ():
        yield DropDatabase(name, "is no longer declared", destructive=True, database=name)


def _compare_tables(comparison: _Comparison) -> None:
    """Decide for each existing table whether its changes are made in place or it is rebuilt."""
    desired, live = comparison.desired, comparison.live
    fed = {v.target for v in (*desired.views.values(), *live.views.values())}
    # Tables that views read and no view fills: the landing logs.
    logs = {v.source for v in desired.views.values()} - fed
    for name, table in desired.tables.items():
        current = live.tables.get(name)
        if current is None:
            continue
        options = comparison.options
        changes, reasons = TableComparison(table, current, options.sizes(name), options.unstored).result(
            is_fed=name in fed, is_log=name in logs
        )
        if reasons:
            comparison.rebuilt[name] = Step(resource_of(table), "; ".join(reasons), True, tenant=tenant_of(table))
        else:
            comparison.changes.extend(changes)


def _query(view: View) -> str:
    """The part of a view's fingerprint that changes with its query, but not with added columns."""
    return view.mark.fingerprint.partition(":")[0] if view.mark else ""


def _rebuild_for_changed_views(comparison: _Comparison) -> None:
    """Mark the targets of views whose query changed for rebuilding: their first row is already wrong.

    Also mark the target of a live view that excludes some tenants, unless it is known which blocks they miss.
    """
    rebuilt, options = comparison.rebuilt, comparison.options
    for name, view in comparison.desired.views.items():
        current = comparison.live.views.get(name)
        if current is None or view.target in rebuilt:
            continue
        if _query(view) != _query(current) and not options.is_continued(view):
            rebuilt[view.target] = Step(resource_of(view), CHANGED, True, tenant=tenant_of(view))
        elif current.excluded_tenants and name not in comparison.suspended:
            why = f"{name.name} excludes the rows of tenant {', '.join(current.excluded_tenants)}"
            rebuilt[view.target] = Step(resource_of(view), why, tenant=tenant_of(view))


def _rebuild_for_lost_views(comparison: _Comparison) -> None:
    """Mark targets that have lost a view for rebuilding: a change was interrupted, or someone dropped the view.

    Such a view has missed rows, and a backfill would repeat the rows that it has delivered. If its missed blocks are
    recorded, only these are delivered; otherwise the table is recomputed, which needs permission if rows are lost.
    """
    rebuilt, live = comparison.rebuilt, comparison.live
    for name, view in comparison.desired.views.items():
        table = live.tables.get(view.target)
        if name in live.views or name in comparison.suspended or table is None or view.target in rebuilt:
            continue
        # A Null table never has rows, so its size does not show whether the views that read it have missed rows.
        used = comparison.options.sizes(view.target) or table.engine == NULL_ENGINE
        if table.mark is not None and name.name in table.mark.feeders and used:
            why = f"{name.name}, which fed it, is gone"
            rebuilt[view.target] = Step(resource_of(view), why, tenant=tenant_of(view))


def _feeders_to_note(comparison: _Comparison) -> Iterable[Step]:
    """Record new feeding views in the marks of tables that stay. A new table gets its mark when it is created."""
    for name, table in comparison.desired.tables.items():
        current = comparison.live.tables.get(name)
        if table.mark is None or current is None or current.mark is None or name in comparison.rebuilt:
            continue
        feeders = {*table.mark.feeders, *current.mark.feeders}
        if feeders != set(current.mark.feeders):
            mark = replace(current.mark, feeders=tuple(sorted(feeders)))
            yield NoteFeeders(
                resource_of(table), "fed by one more view", tenant=tenant_of(table), name=name, mark=mark
            )


def _rebuild_downstream(comparison: _Comparison) -> None:
    """Mark everything that is derived from a rebuilt table for rebuilding, at any distance."""
    rebuilt = comparison.rebuilt
    views = {**comparison.live.views, **comparison.desired.views}
    pending = list(rebuilt)
    while pending:
        source = pending.pop()
        for view in views.values():
            if view.source == source and view.target not in rebuilt and view.target in comparison.live.tables:
                cause = rebuilt[source]
                reason = f"derived from {source.name}"
                rebuilt[view.target] = Step(cause.resource, reason, cause.destructive, tenant=tenant_of(view))
                pending.append(view.target)


def _views_to_drop(comparison: _Comparison) -> Iterable[Step]:
    """Drop views of rebuilt tables, views that are no longer declared, and views of branches that a query lost."""
    rebuilt, options = comparison.rebuilt, comparison.options
    # From the end of the data flow to its beginning, so that rows never reach a view whose target no longer exists.
    for name, view in reversed(list(comparison.live.views.items())):
        cause = rebuilt.get(view.target) or rebuilt.get(view.source)
        if cause is not None:
            yield DropView(cause.resource, cause.reason, cause.destructive, tenant=tenant_of(view), name=name)
        elif name not in comparison.desired.views and options.prune:
            yield DropView(resource_of(view), "is no longer declared", True, tenant=tenant_of(view), name=name)
        elif name not in comparison.desired.views and options.is_continued(view):
            yield DropView(
                resource_of(view), "the pipe's query has fewer branches", tenant=tenant_of(view), name=name
            )


def _tables_to_drop(comparison: _Comparison) -> Iterable[Step]:
    """Drop rebuilt tables, and with `prune` those that are no longer declared."""
    sizes = comparison.options.sizes
    for name, table in comparison.live.tables.items():
        cause = comparison.rebuilt.get(name)
        if cause is not None:
            step = DropTable(cause.resource, cause.reason, cause.destructive, cause.effect, tenant_of(table), name)
            yield replace(step, loss=cause.loss, rows=cause.rows)
        elif name not in comparison.desired.tables and comparison.options.prune:
            effect = f"loses its {ROWS}"
            step = DropTable(resource_of(table), "is no longer declared", True, effect, tenant_of(table), name)
            yield replace(step, loss="lost" if sizes(name) else "none", rows=sizes(name))


def _tables_to_create(comparison: _Comparison) -> Iterable[Step]:
    """Create new tables, and rebuilt ones again."""
    for name, table in comparison.desired.tables.items():
        if name not in comparison.live.tables:
            yield CreateTable(resource_of(table), "does not exist", tenant=tenant_of(table), table=table)
        elif name in comparison.rebuilt:
            resource = comparison.rebuilt[name].resource
            yield CreateTable(resource, "rebuilt", tenant=tenant_of(table), table=table)


def _readers_to_start(comparison: _Comparison) -> Iterable[Step]:
    """Deliver the landing log to new nest copies of routed datasources, which have no view."""
    readers: dict[str, list[str]] = {}
    for name, table in comparison.desired.tables.items():
        tenant = tenant_of(table)
        created = name not in comparison.live.tables or name in comparison.rebuilt
        if tenant is not None and created and name.name in comparison.options.routed:
            readers.setdefault(name.name, []).append(tenant)
    if readers:
        reason = "existing rows are delivered"
        yield StartReaders("", reason, readers={n: tuple(t) for n, t in readers.items()})


def _views_to_create(comparison: _Comparison) -> Iterable[Step]:
    """Create new views, and replace changed ones."""
    narrowed = {s.name for s in comparison.changes if isinstance(s, DropColumn)}
    for view in comparison.desired.views.values():
        step = _view_to_create(comparison, view, narrowed)
        if step is not None:
            yield step


def _view_to_create(comparison: _Comparison, view: View, narrowed: set[Name]) -> CreateView | None:
    """The step that creates or replaces a view; None if it needs no change. `narrowed` tables lose a column."""
    name, options = view.name, comparison.options
    current = comparison.live.views.get(name)
    step = CreateView(resource_of(view), "", tenant=tenant_of(view), view=view, replaces=current is not None)
    if view.target in comparison.rebuilt or view.source in comparison.rebuilt:
        reason = "rebuilt, with a backfill" if current else "does not exist; existing rows are delivered"
        return replace(step, reason=reason, replaces=False)
    if name in options.broken:
        return None
    if name in options.missing:
        reason = "it was suspended; the rows that it missed are delivered, and its target stays"
        return replace(step, reason=reason, missing=options.missing[name], continues=options.is_continued(view))
    if options.is_continued(view) and (current is None or _query(view) != _query(current)):
        reason = f"{CHANGED}; the target is kept, and the new query begins with the next rows"
        return replace(step, reason=reason, continues=True)
    if current is None:
        return replace(step, reason="does not exist; existing rows are delivered")
    # The queries are equal, so only the columns can differ.
    if view.mark and current.mark and view.mark.fingerprint != current.mark.fingerprint:
        return replace(step, reason="delivers added columns")
    # The text may mention a table without reading its column. Replacing the view in that case does no harm.
    if any(n.sql() in view.sql for n in narrowed):
        return replace(step, reason="reads a table that loses a column")
    return None
