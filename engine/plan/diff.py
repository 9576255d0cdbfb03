"""Desired against live: a pure comparison of two schemas.

Added columns are applied everywhere. Any other change of a table or view rebuilds it, and with it everything that
is derived from it; that is destructive and carries the name by which it must be allowed. Whether the rows are
computed again in full or lost depends on what the sources still have.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from engine.compiler.storage import NULL_ENGINE
from engine.plan.loss import Losses, widens
from engine.plan.missing_blocks import Lack
from engine.plan.steps import (
    AddColumn,
    ChangeClause,
    ChangeColumn,
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
)
from engine.schema import Column, Name, Schema, Table, View

CHANGED = "its query changed"
"""The reason why a target is computed again that could be kept instead."""
Sizes = Callable[[Name], int]
"""Rows of a live table, for costs."""
Lacking = Callable[[View], str | None]
"""Why a view's source may no longer have all rows that its target was made from; None when it has."""


def diff(
    desired: Schema,
    live: Schema,
    *,
    prune: bool = False,
    sizes: Sizes = lambda _: 0,
    routed: Collection[str] = (),
    broken: Collection[Name] = (),
    missing: Mapping[Name, tuple[Lack, ...]] = {},
    lacking: Lacking = lambda _: None,
    continued: Collection[str] = (),
) -> Plan:
    """The steps from live to desired. Objects that are only live are dropped when `prune` is set.

    Copies of `routed` datasources are filled by readers of the log, which begin with the table. Views that are
    `broken` are not put back: they would fail again. Views of which is known what they are `missing` are put back
    with it, and their targets stay. `lacking` is asked about the sources of targets that must be computed again.
    Targets of `continued` pipes are kept although the query has changed: the new one begins with the next rows.
    """
    fed = {v.target for v in (*desired.views.values(), *live.views.values())}
    logs = {v.source for v in desired.views.values()} - fed
    changes: list[Step] = []
    rebuilt: dict[Name, Step] = {}
    for name, table in desired.tables.items():
        current = live.tables.get(name)
        if current is not None:
            _compare(table, current, name in fed, name in logs, changes, rebuilt, sizes)
    kept = {*broken, *missing}
    _changed_views(desired, live, rebuilt, kept, continued)
    _lost_views(desired, live, rebuilt, sizes, kept)
    _downstream(desired, live, rebuilt, sizes)
    Losses(desired, live, sizes, lacking, routed).tell(rebuilt)
    steps = [
        *_databases(desired, live),
        *_views_to_drop(desired, live, rebuilt, prune, continued),
        *_tables_to_drop(desired, live, rebuilt, prune, sizes),
        *_readers_to_start(desired, live, rebuilt, routed),
        *_tables_to_create(desired, live, rebuilt),
        *changes,
        *_views_to_create(
            desired, live, rebuilt, {s.name for s in changes if isinstance(s, DropColumn)}, broken, missing, continued
        ),
        *_feeders_to_note(desired, live, rebuilt),
        *_databases_to_drop(desired, live, prune),
    ]
    return Plan(tuple(steps))


def with_feeders(schema: Schema) -> Schema:
    """The schema with the views that deliver into each table noted in its mark."""
    feeders: dict[Name, list[str]] = {}
    for name, view in schema.views.items():
        feeders.setdefault(view.target, []).append(name.name)
    tables = dict(schema.tables)
    for name, views in feeders.items():
        table = tables.get(name)
        if table is not None and table.mark is not None:
            tables[name] = replace(table, mark=replace(table.mark, fed=tuple(sorted(views))))
    return Schema(schema.databases, tables, schema.views)


def _resource(item: Table | View) -> str:
    return item.mark.resource if item.mark else item.name.name


def _tenant(item: Table | View) -> str | None:
    return item.mark.tenant if item.mark else None


def _databases(desired: Schema, live: Schema) -> Iterable[Step]:
    for name in sorted(desired.databases - live.databases):
        yield CreateDatabase(name, "does not exist", database=name)


def _databases_to_drop(desired: Schema, live: Schema, prune: bool) -> Iterable[Step]:
    for name in sorted(live.databases - desired.databases) if prune else ():
        yield DropDatabase(name, "nothing declares it", destructive=True, database=name)


def _compare(
    table: Table,
    current: Table,
    is_fed: bool,
    is_log: bool,
    changes: list[Step],
    rebuilt: dict[Name, Step],
    sizes: Sizes,
) -> None:
    """Column by column, then the clauses; what cannot be altered in place marks the table for rebuilding."""
    resource, tenant = _resource(table), _tenant(table)
    have = {c.name: c for c in current.columns}
    want = {c.name: c for c in table.columns}
    own: list[Step] = []
    reasons: list[str] = []
    for name, column in want.items():
        if name not in have:
            own.append(
                AddColumn(
                    resource, "new column", tenant=tenant, name=table.name, column=column, late=is_log and not is_fed
                )
            )
        elif _definition(column) != _definition(have[name]):
            if column.type == have[name].type:
                own.append(ChangeColumn(resource, "default or codec", tenant=tenant, name=table.name, column=column))
            else:
                reasons.append(f"column {name}: {have[name].type} → {column.type}")
    gone = [n for n in have if n not in want]
    reasons += [f"column {n} is gone" for n in gone]
    keys = _keys(table, current)
    if is_fed and (reasons or keys):
        rebuilt[table.name] = Step(resource, "; ".join(reasons + keys), True, tenant=tenant)
        return
    for name in gone:
        own.append(
            DropColumn(
                resource,
                "column is gone",
                destructive=True,
                cost=f"its values in {sizes(table.name):,} rows are lost",
                tenant=tenant,
                loss="lost" if sizes(table.name) else "none",
                name=table.name,
                column=name,
            )
        )
    for name, column in want.items():
        if name in have and column.type != have[name].type:
            cost = f"{sizes(table.name):,} rows are converted"
            why = f"type {have[name].type} → {column.type}"
            narrower = sizes(table.name) and not widens(have[name].type, column.type)
            cost += ", and values that do not fit the new type are lost" if narrower else ""
            step = ChangeColumn(resource, why, True, cost, tenant, name=table.name, column=column)
            own.append(replace(step, loss="lost" if narrower else "none"))
    if keys:
        rebuilt[table.name] = Step(resource, "; ".join(keys), True, tenant=tenant)
        return
    own.extend(_clauses(table, current, resource, tenant))
    changes.extend(own)


def _definition(column: Column) -> tuple[str, str, str, str]:
    return (column.type, column.default_kind, column.default, column.codec)


def _keys(table: Table, current: Table) -> list[str]:
    pairs = (
        ("engine", table.engine, current.engine),
        ("sorting key", table.sorting_key, current.sorting_key),
        ("partition key", table.partition_key, current.partition_key),
        ("primary key", table.primary_key, current.primary_key),
        ("sampling key", table.sampling_key, current.sampling_key),
    )
    return [f"{what}: {old or 'none'} → {new or 'none'}" for what, new, old in pairs if new != old]


def _clauses(table: Table, current: Table, resource: str, tenant: str | None) -> Iterable[Step]:
    name = table.name.sql()
    if table.ttl != current.ttl:
        sql = f"ALTER TABLE {name} MODIFY TTL {table.ttl}" if table.ttl else f"ALTER TABLE {name} REMOVE TTL"
        cost = "rows past the new TTL are lost" if table.ttl else ""
        step = ChangeClause(resource, f"TTL {table.ttl or 'removed'}", bool(cost), cost, tenant, table.name, sql)
        yield replace(step, loss="lost" if cost else "none")
    have = dict(current.settings)
    for key, value in table.settings:
        if have.get(key) != value and key in have:
            sql = f"ALTER TABLE {name} MODIFY SETTING {key} = {value}"
            yield ChangeClause(resource, f"setting {key} = {value}", tenant=tenant, name=table.name, sql=sql)


def _text(view: View) -> str:
    return view.mark.fingerprint.partition(":")[0] if view.mark else ""


def _changed_views(
    desired: Schema, live: Schema, rebuilt: dict[Name, Step], kept: Collection[Name], continued: Collection[str]
) -> None:
    """A view whose query changed makes its target wrong from the first row on.

    The target of one that leaves out some tenants is computed again with them, unless it is known what they lack.
    """
    for name, view in desired.views.items():
        current = live.views.get(name)
        if current is None or view.target in rebuilt:
            continue
        if _text(view) != _text(current) and _resource(view) not in continued:
            rebuilt[view.target] = Step(_resource(view), CHANGED, True, tenant=_tenant(view))
        elif current.mark and current.mark.without and name not in kept:
            why = f"{name.name} leaves out the rows of tenant {', '.join(current.mark.without)}"
            rebuilt[view.target] = Step(_resource(view), why, tenant=_tenant(view))


def _lost_views(
    desired: Schema, live: Schema, rebuilt: dict[Name, Step], sizes: Sizes, kept: Collection[Name]
) -> None:
    """A view that once fed a table and is gone (an interrupted change, or by hand) has missed rows since.

    Its history cannot simply be delivered again: what it has delivered is still there. Where it is known what it has
    missed, only that is delivered; else the table is computed again, which needs permission if rows are lost by it.
    """
    for name, view in desired.views.items():
        table = live.tables.get(view.target)
        if name in live.views or name in kept or table is None or table.mark is None or view.target in rebuilt:
            continue
        # An inlet keeps nothing, so its size does not tell; what hangs on it has missed rows.
        if name.name in table.mark.fed and (sizes(view.target) or table.engine == NULL_ENGINE):
            why = f"{name.name}, which fed it, is gone"
            rebuilt[view.target] = Step(_resource(view), why, tenant=_tenant(view))


def _feeders_to_note(desired: Schema, live: Schema, rebuilt: Mapping[Name, Step]) -> Iterable[Step]:
    for name, table in desired.tables.items():
        current = live.tables.get(name)
        if table.mark is None or current is None or current.mark is None or name in rebuilt:
            continue
        feeders = {*table.mark.fed, *current.mark.fed}
        if feeders != set(current.mark.fed):
            mark = replace(current.mark, fed=tuple(sorted(feeders)))
            yield NoteFeeders(_resource(table), "fed by one more view", tenant=_tenant(table), name=name, mark=mark)


def _downstream(desired: Schema, live: Schema, rebuilt: dict[Name, Step], sizes: Sizes) -> None:
    """Whatever is derived from a rebuilt table is rebuilt with it."""
    views = {**live.views, **desired.views}
    pending = list(rebuilt)
    while pending:
        source = pending.pop()
        for view in views.values():
            if view.source == source and view.target not in rebuilt and view.target in live.tables:
                cause = rebuilt[source]
                rebuilt[view.target] = Step(
                    cause.resource, f"derived from {source}", cause.destructive, tenant=_tenant(view)
                )
                pending.append(view.target)


def _views_to_drop(
    desired: Schema, live: Schema, rebuilt: Mapping[Name, Step], prune: bool, continued: Collection[str]
) -> Iterable[Step]:
    for name, view in reversed(list(live.views.items())):
        cause = rebuilt.get(view.target) or rebuilt.get(view.source)
        if cause is not None:
            yield DropView(cause.resource, cause.reason, cause.destructive, tenant=_tenant(view), name=name)
        elif name not in desired.views and prune:
            yield DropView(_resource(view), "nothing declares it", True, tenant=_tenant(view), name=name)
        elif name not in desired.views and _resource(view) in continued:
            yield DropView(_resource(view), "the pipe's query has fewer branches", tenant=_tenant(view), name=name)


def _tables_to_drop(
    desired: Schema, live: Schema, rebuilt: Mapping[Name, Step], prune: bool, sizes: Sizes
) -> Iterable[Step]:
    for name, table in live.tables.items():
        cause = rebuilt.get(name)
        if cause is not None:
            step = DropTable(cause.resource, cause.reason, cause.destructive, cause.cost, _tenant(table), name)
            yield replace(step, loss=cause.loss)
        elif name not in desired.tables and prune:
            cost = f"its {sizes(name):,} rows are lost"
            step = DropTable(_resource(table), "nothing declares it", True, cost, _tenant(table), name)
            yield replace(step, loss="lost" if sizes(name) else "none")


def _tables_to_create(desired: Schema, live: Schema, rebuilt: Mapping[Name, Step]) -> Iterable[Step]:
    for name, table in desired.tables.items():
        if name not in live.tables:
            yield CreateTable(_resource(table), "does not exist", tenant=_tenant(table), table=table)
        elif name in rebuilt:
            cause = rebuilt[name]
            yield CreateTable(cause.resource, "rebuilt", tenant=_tenant(table), table=table)


def _readers_to_start(
    desired: Schema, live: Schema, rebuilt: Mapping[Name, Step], routed: Collection[str]
) -> Iterable[Step]:
    readers: dict[str, list[str]] = {}
    for name, table in desired.tables.items():
        tenant = _tenant(table)
        if tenant is not None and name.name in routed and (name not in live.tables or name in rebuilt):
            readers.setdefault(name.name, []).append(tenant)
    if readers:
        yield StartReaders("", "their history is delivered", readers={n: tuple(t) for n, t in readers.items()})


def _views_to_create(
    desired: Schema,
    live: Schema,
    rebuilt: Mapping[Name, Step],
    narrowed: set[Name],
    broken: Collection[Name],
    missing: Mapping[Name, tuple[Lack, ...]],
    continued: Collection[str],
) -> Iterable[Step]:
    for name, view in desired.views.items():
        current = live.views.get(name)
        redone = view.target in rebuilt or view.source in rebuilt
        if name in broken and not redone:
            continue
        if name in missing and not redone:
            reason = "it was suspended; what it has missed is delivered, and its target stays"
            step = CreateView(_resource(view), reason, tenant=_tenant(view), view=view, replaces=current is not None)
            yield replace(step, missing=missing[name], continues=_resource(view) in continued)
            continue
        if not redone and _resource(view) in continued and (current is None or _text(view) != _text(current)):
            reason = f"{CHANGED}; the target is kept, and the new query begins with the next rows"
            step = CreateView(_resource(view), reason, tenant=_tenant(view), view=view, continues=True)
            yield replace(step, replaces=current is not None)
            continue
        if current is None or redone:
            reason = "rebuilt, with its history" if redone and current else "does not exist; history is delivered"
            yield CreateView(_resource(view), reason, tenant=_tenant(view), view=view)
        elif view.mark and current.mark and view.mark.fingerprint != current.mark.fingerprint:
            yield CreateView(
                _resource(view), "delivers added columns", tenant=_tenant(view), view=view, replaces=True
            )
        elif any(n.sql() in view.sql for n in narrowed):
            yield CreateView(
                _resource(view), "reads a narrower table", tenant=_tenant(view), view=view, replaces=True
            )
