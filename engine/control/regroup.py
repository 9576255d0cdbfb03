"""Removes one tenant from shared aggregates: recomputes the groups that contain its rows without it.

A sum does not show what one tenant contributed, so each of its groups is recomputed from the source, which no longer
has the tenant's rows, and replaces the old one. The keys of these groups are stored first, so that an interrupted run
is repeated with the same groups.
"""

from __future__ import annotations

import secrets

from engine.compiler.build import Build
from engine.compiler.groups import key_of
from engine.compiler.scope import GROUP_TENANTS
from engine.compiler.views import WORKSPACE_READER, pipe_views
from engine.control.received_blocks import Received, received, selects, why_missing_rows_are_unknown
from engine.control.unfinished_history import deliver_unfinished, undelivered_error
from engine.plan.backfill import block_ranges
from engine.plan.coverage import Coverage
from engine.schema import Column, Mark, Name, Schema, Table, View, literal, quote
from engine.warehouse import ddl
from engine.warehouse.catalog import read_schema
from engine.workspace.journal import RegistryJournal
from engine.workspace.workspace import Workspace

_OF_TENANT = f"has(finalizeAggregation({quote(GROUP_TENANTS)}).1, {{tenant:String}})"
"""SQL condition: a row of a shared aggregate contains rows of a tenant."""
_BY_TENANT = f"(finalizeAggregation({quote(GROUP_TENANTS)}) AS _rk_by).1 AS _rk_ids, _rk_by.2 AS _rk_counts"
"""SQL: the tenants whose rows are in a row of a shared aggregate, and how many rows each has there."""


def recompute_groups(workspace: Workspace, build: Build, tenant: str) -> None:
    """Recompute every shared group that contains a tenant's rows. The sources must no longer have these rows."""
    for name, relation in build.relations.items():
        if relation.min_tenants is not None:
            _recompute(workspace, build, name, tenant)


def is_in_groups(workspace: Workspace, build: Build, tenant: str) -> bool:
    """Whether a shared aggregate contains rows of a tenant."""
    names = [Name(workspace.name, n) for n, r in build.relations.items() if r.min_tenants is not None]
    return any(_contains(workspace, name, tenant) for name in names)


def _contains(workspace: Workspace, target: Name, tenant: str) -> bool:
    condition = f"SELECT 1 FROM {target.sql()} WHERE {_OF_TENANT} LIMIT 1"
    return bool(workspace.warehouse.query(condition, {"tenant": tenant}).rows)


def incomplete_groups(workspace: Workspace, build: Build, tenant: str) -> dict[str, str]:
    """Shared aggregates that would lose other tenants' rows if a tenant's groups were recomputed, and why.

    A source that may have lost rows, for example by its TTL, matters only if these groups contain more rows of
    another tenant than the source still has. Raises RK3010 while a view has rows to deliver to such an aggregate.
    """
    live = read_schema(workspace.warehouse, workspace.name, [workspace.name])
    coverage = Coverage(workspace.warehouse, workspace.registry, live)
    incomplete: dict[str, str] = {}
    for name, relation in build.relations.items():
        target = Name(workspace.name, name)
        if relation.min_tenants is None or target not in live.tables:
            continue
        if not _contains(workspace, target, tenant):
            continue
        _refuse_outstanding(workspace, name)
        # Suspended views are included, because the groups contain rows that they delivered earlier.
        views = _views_into(build, name)
        dropped = next((str(v.source) for v in views if v.source not in live.tables), None)
        unknown = why_missing_rows_are_unknown(workspace, build, views)
        reasons = [unknown, *map(coverage.why_incomplete, views), *(_why_merged(live, v) for v in views)]
        reason = f"{dropped} does not exist" if dropped else next((r for r in reasons if r is not None), None)
        # Counting rows is expensive, and does not prove anything if the source is unknown or the query has changed.
        uncountable = dropped or unknown or any(map(coverage.superseded, views))
        if reason is not None and (uncountable or _would_lose_rows(workspace, build, name, tenant)):
            incomplete[name] = reason
    return incomplete


def _why_merged(live: Schema, view: View) -> str | None:
    """Why a source has fewer rows than the view has delivered, if its engine merges rows."""
    table = live.tables.get(view.source)
    merging = table is not None and table.engine.partition("(")[0] != "MergeTree"
    return f"{view.source} merges its rows ({table.engine})" if merging and table is not None else None


def _views_into(build: Build, name: str) -> list[View]:
    """The views that fill a shared target, compiled."""
    return [
        v
        for p in build.materialized()
        if p.target and p.target.name == name
        for v in pipe_views(build, p, p.target, WORKSPACE_READER)
    ]


def _would_lose_rows(workspace: Workspace, build: Build, name: str, tenant: str) -> bool:
    """Whether a tenant's groups contain more rows of some other tenant than the sources still have for them."""
    warehouse, target = workspace.warehouse, Name(workspace.name, name)
    keys = ", ".join(map(quote, key_of(build.datasources[name])))
    views = _views_into(build, name)
    stored = Name(f"{workspace.name}_scratch", f"_rk_rows_{secrets.token_hex(4)}")
    warehouse.execute(ddl.create_database(stored.database))
    try:
        with workspace.view_lock.changing():
            # Both are read between two inserts, so the target has exactly the rows of the sources up to these blocks.
            upto = {v.source: _newest(workspace, v.source) for v in views}
            warehouse.execute(
                f"CREATE TABLE {stored.sql()} ENGINE = MergeTree ORDER BY tuple() AS SELECT {keys}, {_BY_TENANT} "
                f"FROM {target.sql()} WHERE ({keys}) IN (SELECT {keys} FROM {target.sql()} WHERE {_OF_TENANT})",
                {"tenant": tenant},
            )
        affected = f"({keys}) IN (SELECT {keys} FROM {stored.sql()})"
        each = "ARRAY JOIN _rk_ids AS _rk_id, _rk_counts AS _rk_count"
        sides = [f"SELECT {keys}, _rk_id, _rk_count AS _rk_kept, 0 AS _rk_left FROM {stored.sql()} {each}"]
        for rows in (r for p in received(workspace, build, views) for r in selects(workspace, p, 0, upto)):
            remaining = f"SELECT {keys}, {_BY_TENANT} FROM ({rows}) WHERE {affected}"
            sides.append(f"SELECT {keys}, _rk_id, 0 AS _rk_kept, _rk_count AS _rk_left FROM ({remaining}) {each}")
        result = warehouse.query(
            f"SELECT count() FROM (SELECT {keys}, _rk_id FROM ({' UNION ALL '.join(sides)}) "
            f"WHERE _rk_id != {{tenant:String}} GROUP BY {keys}, _rk_id HAVING sum(_rk_kept) > sum(_rk_left))",
            {"tenant": tenant},
        )
        return bool(result.rows[0][0])
    finally:
        warehouse.execute(ddl.drop_table(stored))


def _recompute(workspace: Workspace, build: Build, name: str, tenant: str) -> None:
    """Recompute a tenant's groups in one shared aggregate. The stored keys are dropped only after success."""
    deliver_unfinished(workspace)
    _refuse_outstanding(workspace, name)
    groups = _Groups(workspace, build, name)
    try:
        if groups.store_keys(tenant):
            groups.recompute()
        # Not after an error: with some partitions replaced, the target would no longer have all of these groups.
        workspace.warehouse.execute(ddl.drop_table(groups.keys.name))
    finally:
        workspace.warehouse.execute(ddl.drop_table(groups.fresh))


def _refuse_outstanding(workspace: Workspace, name: str) -> None:
    """Raise RK3010 while a view has history to deliver to a target: recomputed groups would receive it twice."""
    exc = undelivered_error(
        h for h in RegistryJournal(workspace.registry).outstanding() if h.target == Name(workspace.name, name).sql()
    )
    if exc is not None:
        raise exc


class _Groups:
    """Recomputes groups of one target in a separate table, and replaces whole partitions of the target.

    Readers see each group either with or without the tenant, and views on the target do not run. After a failure the
    target is unchanged.
    """

    def __init__(self, workspace: Workspace, build: Build, name: str) -> None:
        self._workspace, self._build, self._warehouse = workspace, build, workspace.warehouse
        self._views = _views_into(build, name)
        self._target = Name(workspace.name, name)
        self.keys = _keys_table(build, name)
        """The table with the keys of the tenant's groups. It is kept after an interruption."""
        self.fresh = Name(f"{workspace.name}_scratch", f"_rk_fresh_{name}")
        self._key_columns = ", ".join(map(quote, key_of(build.datasources[name])))
        self._affected = f"({self._key_columns}) IN (SELECT {self._key_columns} FROM {self.keys.name.sql()})"
        self._columns = ", ".join(
            quote(c) for c in (*(c.name for c in build.datasources[name].columns), GROUP_TENANTS)
        )

    def store_keys(self, tenant: str) -> bool:
        """Store the keys of the tenant's groups. Returns whether there are any."""
        keys = self.keys.name.sql()
        self._warehouse.execute(ddl.create_table(self.keys))
        insert = f"INSERT INTO {keys} SELECT DISTINCT {self._key_columns} FROM {self._target.sql()}"
        self._warehouse.execute(f"{insert} WHERE {_OF_TENANT}", {"tenant": tenant})
        return bool(self._warehouse.query(f"SELECT count() FROM {keys}").rows[0][0])

    def recompute(self) -> None:
        """Process existing rows while inserts continue, and then, with inserts blocked, the rows that have arrived in
        the meantime.
        """
        with self._workspace.view_lock.changing():
            self._workspace.view_lock.completion.complete_all()
            before, after = self._parts(), self._heads()
        self._begin()
        # This is the long part, which runs while inserts continue. The blocks that they add are processed below.
        self._fill(before, dict.fromkeys(after, 0), after)
        with self._workspace.view_lock.changing():
            self._workspace.view_lock.completion.complete_all()
            parts, heads = self._parts(), self._heads()
            if parts == before:
                self._fill(parts, after, heads)
            else:
                # A view was suspended or created again in the meantime, so the target should now contain other rows.
                self._begin()
                self._fill(parts, dict.fromkeys(heads, 0), heads)
            self._put_in_place()

    def _parts(self) -> list[Received]:
        """What the target has received from each source at this moment."""
        return received(self._workspace, self._build, self._views)

    def _heads(self) -> dict[Name, int]:
        """The newest block of each source at this moment."""
        return {v.source: _newest(self._workspace, v.source) for v in self._views}

    def _begin(self) -> None:
        """Create an empty table like the target, whose rows do not expire."""
        self._warehouse.execute(ddl.create_database(self.fresh.database))
        self._warehouse.execute(ddl.drop_table(self.fresh))
        self._warehouse.execute(f"CREATE TABLE {self.fresh.sql()} AS {self._target.sql()}")
        if self._build.datasources[self._target.name].engine.ttl:
            self._warehouse.execute(ddl.modify_ttl(self.fresh, ""))

    def _fill(self, parts: list[Received], after: dict[Name, int], heads: dict[Name, int]) -> None:
        """Compute the affected groups for the sources' blocks in (after, heads]."""
        for part in parts:
            columns = part.view.columns
            for rows in selects(self._workspace, part, after[part.view.source], heads):
                select = f"SELECT {', '.join(map(quote, columns))} FROM ({rows}) WHERE {self._affected}"
                token = f"regroup:{secrets.token_hex(8)}"
                # It is not repeated, so its partitions need not be few enough to be recognized.
                limits = {"max_partitions_per_insert_block": 0}
                self._warehouse.execute(ddl.insert_block(self.fresh.sql(), columns, token, select, **limits))

    def _put_in_place(self) -> None:
        """Replace the partitions that contain the groups. The caller holds the view lock.

        The target forgets the deduplication tokens of replaced parts, so the journal first records that no earlier
        block will be sent again.
        """
        result = self._warehouse.query(
            f"SELECT DISTINCT _partition_id FROM {self._target.sql()} WHERE {self._affected} ORDER BY 1"
        )
        affected = [str(row[0]) for row in result.rows]
        others = f"_partition_id IN ({', '.join(map(literal, affected))}) AND NOT ({self._affected})"
        rows = f"SELECT {self._columns} FROM {self._target.sql()} WHERE {others}"
        if affected:
            self._warehouse.execute(
                f"INSERT INTO {self.fresh.sql()} ({self._columns}) SETTINGS deduplicate_insert = 'disable' {rows}"
            )
        RegistryJournal(self._workspace.registry).record_newest_blocks()
        result = self._warehouse.query(f"SELECT DISTINCT _partition_id FROM {self.fresh.sql()} ORDER BY 1")
        fresh = [str(row[0]) for row in result.rows]
        for partition in sorted({*affected, *fresh}):
            change = f"ALTER TABLE {self._target.sql()} "
            if partition not in fresh:
                change += f"DROP PARTITION ID {literal(partition)}"
            else:
                verb = "REPLACE" if partition in affected else "ATTACH"
                change += f"{verb} PARTITION ID {literal(partition)} FROM {self.fresh.sql()}"
            self._warehouse.execute(change)


def _newest(workspace: Workspace, source: Name) -> int:
    """The newest block of a source; 0 if it is empty."""
    ranges = block_ranges(workspace.warehouse, source)
    return ranges[-1][1] if ranges else 0


def _keys_table(build: Build, name: str) -> Table:
    """The table with the keys of groups that are being recomputed."""
    source = build.datasources[name]
    keys = key_of(source)
    columns = tuple(Column(c.name, c.type) for c in source.columns if c.name in keys)
    mark = Mark(build.workspace, f"_rk_groups_{name}", "state")
    return Table(Name(build.workspace, f"_rk_groups_{name}"), columns, sorting_key="tuple()", mark=mark)
