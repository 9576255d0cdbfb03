"""Taking one tenant out of shared aggregates: the groups that it is in are computed again without it.

What a tenant has added to a sum cannot be taken off again, so each of its groups is made anew from the source, from
which the tenant's rows are gone by then, and put in the place of the old one. The keys of these groups are written
down first: whatever interrupts this, the next run finds them and begins again.
"""

from __future__ import annotations

import secrets

from engine.compiler.build import Build
from engine.compiler.groups import key_of
from engine.compiler.scope import GROUP_TENANTS
from engine.compiler.views import WORKSPACE_READER, pipe_views
from engine.control.received_blocks import Received, received, selects, unknown_lacks
from engine.control.recovery import resume, undelivered
from engine.plan.backfill import block_ranges
from engine.plan.coverage import Coverage
from engine.schema import Column, Mark, Name, Schema, Table, View, literal, quote
from engine.warehouse import ddl
from engine.warehouse.catalog import read_schema
from engine.workspace.journal import RegistryJournal
from engine.workspace.workspace import Workspace

_OF_TENANT = f"has(finalizeAggregation({quote(GROUP_TENANTS)}).1, {{tenant:String}})"
"""Whether a row of a shared aggregate holds a tenant's rows."""
_BY_TENANT = f"(finalizeAggregation({quote(GROUP_TENANTS)}) AS _rk_by).1 AS _rk_ids, _rk_by.2 AS _rk_counts"
"""Tenants of a shared aggregate's row, and how many rows each has in it."""


def recompute_groups(workspace: Workspace, build: Build, tenant: str) -> None:
    """Compute every shared group that holds a tenant's rows again; from the sources the rows must be gone."""
    for name, relation in build.relations.items():
        if relation.min_tenants is not None:
            _recompute(workspace, build, name, tenant)


def incomplete_groups(workspace: Workspace, build: Build, tenant: str) -> dict[str, str]:
    """Shared aggregates whose groups with a tenant's rows lack rows of other tenants in their sources, and why.

    A source that may have lost rows, by its TTL for example, matters only if these groups hold more rows of another
    tenant than it still has.
    """
    live = read_schema(workspace.warehouse, workspace.name, [workspace.name])
    coverage = Coverage(workspace.warehouse, workspace.registry, live)
    found: dict[str, str] = {}
    for name, relation in build.relations.items():
        target = Name(workspace.name, name)
        if relation.min_tenants is None or target not in live.tables:
            continue
        mine = workspace.warehouse.query(f"SELECT count() FROM {target.sql()} WHERE {_OF_TENANT}", {"tenant": tenant})
        if not mine.rows[0][0]:
            continue
        _refuse_outstanding(workspace, name)
        # A view that is down has a source all the same, and its rows are in these groups.
        views = _views_into(build, name)
        gone = next((str(v.source) for v in views if v.source not in live.tables), None)
        unknown = unknown_lacks(workspace, build, views)
        reasons = [unknown, *map(coverage.why_incomplete, views), *(_merging(live, v) for v in views)]
        why = f"{gone} is gone" if gone else next((r for r in reasons if r is not None), None)
        if why is not None and (
            gone or unknown or any(map(coverage.superseded, views)) or _lacking(workspace, build, name, tenant)
        ):
            found[name] = why
    return found


def _merging(live: Schema, view: View) -> str | None:
    """Why a source has fewer rows than have gone through a view, if its engine merges them."""
    table = live.tables.get(view.source)
    merging = table is not None and table.engine.partition("(")[0] != "MergeTree"
    return f"{view.source} merges its rows ({table.engine})" if merging and table is not None else None


def _views_into(build: Build, name: str) -> list[View]:
    return [
        v
        for p in build.materialized()
        if p.target and p.target.name == name
        for v in pipe_views(build, p, p.target, WORKSPACE_READER)
    ]


def _lacking(workspace: Workspace, build: Build, name: str, tenant: str) -> bool:
    """Whether a tenant's groups hold more rows of some other tenant than the sources have for them now."""
    warehouse, target = workspace.warehouse, Name(workspace.name, name)
    keys = ", ".join(map(quote, key_of(build.datasources[name])))
    views = _views_into(build, name)
    there = Name(f"{workspace.name}_scratch", f"_rk_rows_{secrets.token_hex(4)}")
    warehouse.execute(ddl.create_database(there.database))
    try:
        with workspace.view_lock.changing():
            upto = {v.source: _newest(workspace, v.source) for v in views}
            warehouse.execute(
                f"CREATE TABLE {there.sql()} ENGINE = MergeTree ORDER BY tuple() AS SELECT {keys}, {_BY_TENANT} "
                f"FROM {target.sql()} WHERE ({keys}) IN (SELECT {keys} FROM {target.sql()} WHERE {_OF_TENANT})",
                {"tenant": tenant},
            )
        mine = f"({keys}) IN (SELECT {keys} FROM {there.sql()})"
        each = "ARRAY JOIN _rk_ids AS _rk_id, _rk_counts AS _rk_count"
        sides = [f"SELECT {keys}, _rk_id, _rk_count AS _rk_kept, 0 AS _rk_left FROM {there.sql()} {each}"]
        for rows in (r for p in received(workspace, build, views) for r in selects(workspace, p, 0, upto)):
            given = f"SELECT {keys}, {_BY_TENANT} FROM ({rows}) WHERE {mine}"
            sides.append(f"SELECT {keys}, _rk_id, 0 AS _rk_kept, _rk_count AS _rk_left FROM ({given}) {each}")
        found = warehouse.query(
            f"SELECT count() FROM (SELECT {keys}, _rk_id FROM ({' UNION ALL '.join(sides)}) "
            f"WHERE _rk_id != {{tenant:String}} GROUP BY {keys}, _rk_id HAVING sum(_rk_kept) > sum(_rk_left))",
            {"tenant": tenant},
        )
        return bool(found.rows[0][0])
    finally:
        warehouse.execute(ddl.drop_table(there))


def _recompute(workspace: Workspace, build: Build, name: str, tenant: str) -> None:
    resume(workspace)
    _refuse_outstanding(workspace, name)
    groups = _Groups(workspace, build, name)
    try:
        if groups.note(tenant):
            groups.compute()
        workspace.warehouse.execute(ddl.drop_table(groups.notes.name))
    finally:
        workspace.warehouse.execute(ddl.drop_table(groups.fresh))


def _refuse_outstanding(workspace: Workspace, name: str) -> None:
    """Raise RK3010 while a view has rows to deliver into a target, which would come twice."""
    exc = undelivered(workspace, lambda h: h.target == Name(workspace.name, name).sql())
    if exc is not None:
        raise exc


class _Groups:
    """Computes groups of one target again, beside it, and puts whole partitions in place.

    Readers see a group as it was or as it is without the tenant, and what hangs on the target is not woken. A failure
    leaves the target as it was.
    """

    def __init__(self, workspace: Workspace, build: Build, name: str) -> None:
        self._workspace, self._build, self._warehouse = workspace, build, workspace.warehouse
        self._views = _views_into(build, name)
        self._target = Name(workspace.name, name)
        self.notes = _notes(build, name)
        self.fresh = Name(f"{workspace.name}_scratch", f"_rk_fresh_{name}")
        self._keys = ", ".join(map(quote, key_of(build.datasources[name])))
        self._affected = f"({self._keys}) IN (SELECT {self._keys} FROM {self.notes.name.sql()})"
        self._columns = ", ".join(
            quote(c) for c in (*(c.name for c in build.datasources[name].columns), GROUP_TENANTS)
        )

    def note(self, tenant: str) -> bool:
        """Write down the keys of the tenant's groups; whether there are any."""
        self._warehouse.execute(ddl.create_table(self.notes))
        noted = f"INSERT INTO {self.notes.name.sql()} SELECT DISTINCT {self._keys} FROM {self._target.sql()}"
        self._warehouse.execute(f"{noted} WHERE {_OF_TENANT}", {"tenant": tenant})
        return bool(self._warehouse.query(f"SELECT count() FROM {self.notes.name.sql()}").rows[0][0])

    def compute(self) -> None:
        """Compute most of it while inserts go on, and what has come since with inserts held back."""
        with self._workspace.view_lock.changing():
            self._workspace.view_lock.completion.complete_all()
            before, after = self._parts(), self._heads()
        self._begin()
        self._fill(before, dict.fromkeys(after, 0), after)
        with self._workspace.view_lock.changing():
            self._workspace.view_lock.completion.complete_all()
            parts, heads = self._parts(), self._heads()
            if parts == before:
                self._fill(parts, after, heads)
            else:
                # A view has failed, or was put back, meanwhile.
                self._begin()
                self._fill(parts, dict.fromkeys(heads, 0), heads)
            self._put_in_place()

    def _parts(self) -> list[Received]:
        return received(self._workspace, self._build, self._views)

    def _heads(self) -> dict[Name, int]:
        return {v.source: _newest(self._workspace, v.source) for v in self._views}

    def _begin(self) -> None:
        self._warehouse.execute(ddl.create_database(self.fresh.database))
        self._warehouse.execute(ddl.drop_table(self.fresh))
        self._warehouse.execute(f"CREATE TABLE {self.fresh.sql()} AS {self._target.sql()}")
        if self._build.datasources[self._target.name].engine.ttl:
            self._warehouse.execute(ddl.modify_ttl(self.fresh, ""))

    def _fill(self, parts: list[Received], after: dict[Name, int], heads: dict[Name, int]) -> None:
        for part in parts:
            columns = part.view.columns
            for rows in selects(self._workspace, part, after[part.view.source], heads):
                listed = ", ".join(map(quote, columns))
                given = f"SELECT {listed} FROM ({rows}) WHERE {self._affected}"
                token = f"regroup:{secrets.token_hex(8)}"
                self._warehouse.execute(ddl.insert_block(self.fresh.sql(), columns, token, given))

    def _put_in_place(self) -> None:
        """Replace the partitions that the groups are in. The fence must be held.

        A table forgets the tokens of what is replaced, so it is noted that nothing up to here will come again.
        """
        found = self._warehouse.query(
            f"SELECT DISTINCT _partition_id FROM {self._target.sql()} WHERE {self._affected} ORDER BY 1"
        )
        affected = [str(row[0]) for row in found.rows]
        others = f"_partition_id IN ({', '.join(map(literal, affected))}) AND NOT ({self._affected})"
        rows = f"SELECT {self._columns} FROM {self._target.sql()} WHERE {others}"
        if affected:
            self._warehouse.execute(
                f"INSERT INTO {self.fresh.sql()} ({self._columns}) SETTINGS deduplicate_insert = 'disable' {rows}"
            )
        RegistryJournal(self._workspace.registry).record_newest_blocks()
        kept = self._warehouse.query(f"SELECT DISTINCT _partition_id FROM {self.fresh.sql()} ORDER BY 1")
        made = [str(row[0]) for row in kept.rows]
        for partition in sorted({*affected, *made}):
            change = f"ALTER TABLE {self._target.sql()} "
            if partition not in made:
                change += f"DROP PARTITION ID {literal(partition)}"
            else:
                how = "REPLACE" if partition in affected else "ATTACH"
                change += f"{how} PARTITION ID {literal(partition)} FROM {self.fresh.sql()}"
            self._warehouse.execute(change)


def _newest(workspace: Workspace, source: Name) -> int:
    ranges = block_ranges(workspace.warehouse, source)
    return ranges[-1][1] if ranges else 0


def _notes(build: Build, name: str) -> Table:
    """The table of the keys of groups that are being computed again."""
    source = build.datasources[name]
    keys = key_of(source)
    columns = tuple(Column(c.name, c.type) for c in source.columns if c.name in keys)
    mark = Mark(build.workspace, f"_rk_groups_{name}", "state")
    return Table(Name(build.workspace, f"_rk_groups_{name}"), columns, sorting_key="tuple()", mark=mark)
