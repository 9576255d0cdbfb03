"""Defines the tables and views of the workspace and of each tenant's nest.

A materialized pipe is compiled for a *reader*: the workspace (for ordinary pipes), the pool (all pooled tenants
together), or one tenant's nest. The SQL is the same for each reader; only the tables that the names mean differ.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Literal

from engine.compiler import storage
from engine.compiler.assembly import ViewBranch, assemble
from engine.compiler.build import Build
from engine.compiler.pipes import CompiledPipe, MaterializedTarget
from engine.compiler.scope import TABLE_ALIAS, Bound, Relation, SelectOptions, is_encoded, select, tenant_literal
from engine.schema import Column, Mark, Name, Schema, Table, View, fingerprint, nest_database, quote

AFTER, UPTO = "rk_after", "rk_upto"
"""Placeholders for the range of block numbers that a backfill reads."""
LOG_RANGE = (
    f"WHERE {TABLE_ALIAS}._block_number > {{{AFTER}:UInt64}} AND {TABLE_ALIAS}._block_number <= {{{UPTO}:UInt64}}"
)
"""The condition of a backfill on block numbers: after `AFTER`, up to and including `UPTO`."""


@dataclass(frozen=True, slots=True)
class Reader:
    """For whom a materialized pipe is compiled."""

    kind: Literal["workspace", "pool", "nest"]
    tenant: str | None = None
    """The nest's tenant, or the one pooled tenant for whom a backfill is compiled."""
    nest: str | None = None
    """The nest's database."""
    only: tuple[str, ...] = ()
    """For the workspace or the pool: read only these tenants' rows, unless the list is empty."""
    excluded: tuple[str, ...] = ()
    """For the workspace or the pool: leave out these tenants' rows."""


WORKSPACE_READER = Reader("workspace")
POOL_READER = Reader("pool")


def nest_reader(workspace: str, tenant: str) -> Reader:
    """The reader for one tenant's nest."""
    return Reader("nest", tenant, nest_database(workspace, tenant))


def workspace_schema(build: Build) -> Schema:
    """All tables and views in the workspace's database: datasources, shared targets and their views."""
    tables = [storage.workspace_table(d, build.workspace) for d in build.datasources.values()]
    tables += [
        storage.quarantine_table(d, build.workspace) for d in build.datasources.values() if build.takes(d.name)
    ]
    views: list[View] = []
    for pipe in build.materialized():
        assert pipe.target is not None
        views.extend(
            pipe_views(build, pipe, pipe.target, POOL_READER if pipe.target.per_tenant else WORKSPACE_READER)
        )
    return Schema.of({build.workspace}, tables, views)


def nest_schema(build: Build, tenant: str, routed: Collection[str] = ()) -> Schema:
    """All tables and views in one tenant's nest, in order of data flow.

    Copies of `routed` datasources have no view: the fan-out workers fill them.
    """
    reader = nest_reader(build.workspace, tenant)
    assert reader.nest is not None
    tables: list[Table] = []
    views: list[View] = []
    feeds: list[View] = []
    for name, relation in build.relations.items():
        if build.reaches_nests(name):
            make = storage.nest_table if relation.in_nest else storage.null_table
            tables.append(make(build.datasources[name], build.workspace, reader.nest, tenant))
            if name not in routed:
                (views if relation.in_nest else feeds).append(_copy_view(build, relation, reader))
    for pipe in build.materialized():
        if pipe.target and pipe.target.per_tenant:
            source = build.datasources[pipe.target.name]
            tables.append(
                storage.nest_table(
                    source, build.workspace, reader.nest, tenant, drop_tenant=pipe.target.drop_tenant_column
                )
            )
            views.extend(pipe_views(build, pipe, pipe.target, reader))
    # A Null table does not store rows, so the views that read it must exist before the view that fills it.
    return Schema.of({reader.nest}, {t.name: t for t in tables}.values(), [*views, *feeds])


def pipe_views(build: Build, pipe: CompiledPipe, target: MaterializedTarget, reader: Reader) -> list[View]:
    """The views of a materialized pipe for one reader, one for each branch of its UNION ALL."""
    database = reader.nest or build.workspace
    columns = tuple(
        c
        for c in target.columns
        if not (reader.kind == "nest" and target.drop_tenant_column and c == build.relations[target.name].tenant)
    )
    text = pipe.published_text()
    views = []
    # The engine fires a view only for the left-most table of its first SELECT. So each branch
    # of a UNION ALL is a view.
    for position, branch_sql in enumerate(target.branches or text.branches):
        branch = ViewBranch(branch_sql, columns)
        trigger = build.relations[target.triggers[position]]
        name = f"_rk_{pipe.name}" if position == 0 else f"_rk{position}_{pipe.name}"
        null_table = _null_table(build, trigger, reader)
        source = null_table or _source_and_conditions(build, trigger, reader)[0]
        spelling = _spelling(build, pipe, reader, columns, trigger.name if null_table else None)
        # The fingerprint covers the SQL of the nodes, the source and the position, but not the columns. The columns
        # are in the part after the colon; if only that part changes, the target stays correct.
        nodes = tuple((n.name, n.static.canonical) for n in pipe.needed() if n.static)
        views.append(
            View(
                name=Name(database, name),
                target=Name(database, target.name),
                source=source,
                sql=_view_sql(build, pipe, branch, partial(_bind_for_view, build, reader, trigger, null_table)),
                columns=columns,
                backfill=_view_sql(build, pipe, branch, partial(_bind_for_backfill, build, reader, trigger)),
                mark=Mark(
                    build.workspace,
                    pipe.name,
                    "view",
                    tenant=reader.tenant,
                    fingerprint=f"{fingerprint(nodes, branch_sql, str(source), position)}:{spelling}",
                ),
                log=Name(build.workspace, trigger.name) if null_table else None,
            )
        )
    return views


def _spelling(build: Build, pipe: CompiledPipe, reader: Reader, columns: tuple[str, ...], passing: str | None) -> str:
    """The part of a view's fingerprint that changes with its columns and with their re-encoding.

    `passing` is the datasource whose rows pass through a Null table, where they are already re-encoded.
    """
    reads = [build.relations[d] for d in build.pipes[pipe.name].datasources if d != passing]
    encoded = any(is_encoded(r) and _source_and_conditions(build, r, reader)[1] for r in reads)
    return fingerprint(columns, "own") if encoded else fingerprint(columns)


def _view_sql(build: Build, pipe: CompiledPipe, branch: ViewBranch, bind: Callable[[Relation], Bound]) -> str:
    """The SELECT of one view of a pipe, with the relations that `bind` returns."""
    texts = build.composer.static_texts(build, pipe.name)
    return assemble(build, texts, lambda relation, _reading: bind(relation), branch=branch).sql


def _copy_view(build: Build, relation: Relation, reader: Reader) -> View:
    """The view that delivers a landing datasource's rows to the nest's copy, or to its Null table."""
    assert reader.nest is not None
    assert reader.tenant is not None
    source = Name(build.workspace, relation.name)
    conditions = [_equals_tenant(relation, reader.tenant)]
    return View(
        name=Name(reader.nest, f"_rk_{relation.name}"),
        target=Name(reader.nest, relation.name),
        source=source,
        sql=select(relation, source, conditions, SelectOptions(clause="WHERE", encode="all")),
        columns=relation.columns,
        backfill=select(relation, source, conditions, SelectOptions(suffix=LOG_RANGE, encode="all")),
        mark=Mark(build.workspace, relation.name, "view", reader.tenant, f"copy:{_copy_spelling(relation)}"),
    )


def _copy_spelling(relation: Relation) -> str:
    """The part of a copy's fingerprint that changes with its columns and with their re-encoding."""
    return fingerprint(relation.columns, "own") if is_encoded(relation) else fingerprint(relation.columns)


def _source_and_conditions(build: Build, relation: Relation, reader: Reader) -> tuple[Name, list[str]]:
    """The table that a relation reads for one reader, and the conditions on its rows."""
    shared = Name(build.workspace, relation.name)
    if reader.kind == "nest" and reader.nest and relation.in_nest:
        return Name(reader.nest, relation.name), []
    if relation.tenant is None:
        return shared, []
    if reader.tenant is not None:
        return shared, [_equals_tenant(relation, reader.tenant)]
    if relation.kind != "landing":
        return shared, []
    conditions = [_in_tenants(relation, "IN", reader.only), _in_tenants(relation, "NOT IN", reader.excluded)]
    if reader.kind == "pool":
        pool = Name(build.workspace, storage.POOL_TABLE).sql()
        conditions.insert(0, f"toString({TABLE_ALIAS}.{quote(relation.tenant)}) IN (SELECT id FROM {pool})")
    return shared, [c for c in conditions if c]


def _null_table(build: Build, relation: Relation, reader: Reader) -> Name | None:
    """The Null table for a landing datasource in a nest without a copy of it; None if there is no such table."""
    passes = reader.nest is not None and not relation.in_nest and build.reaches_nests(relation.name)
    return Name(reader.nest or "", relation.name) if passes else None


def _bind_for_view(
    build: Build, reader: Reader, trigger: Relation, null_table: Name | None, relation: Relation
) -> Bound:
    """A relation for a view. The view's trigger may be a Null table."""
    if null_table is not None and relation.name == trigger.name:
        return Bound(select(relation, null_table, []), null_table)
    return _bind(build, relation, reader)


def _bind_for_backfill(build: Build, reader: Reader, trigger: Relation, relation: Relation) -> Bound:
    """A relation for the backfill of a view, which reads a range of the trigger's blocks."""
    return _bind(build, relation, reader, ranged=relation.name == trigger.name)


def _bind(build: Build, relation: Relation, reader: Reader, *, ranged: bool | None = None) -> Bound:
    """A relation for a view, or if `ranged` is not None, for its backfill, with a range of blocks if it is true.

    Views need WHERE: the engine refuses PREWHERE in them, and they only see the inserted block.
    """
    source, conditions = _source_and_conditions(build, relation, reader)
    clause: Literal["PREWHERE", "WHERE"] = "WHERE" if ranged is None else "PREWHERE"
    # Selected rows must not contain the dictionaries and types of the other rows in their block.
    encode: Literal["", "all"] = "all" if conditions else ""
    options = SelectOptions(clause=clause, suffix=LOG_RANGE if ranged else "", encode=encode)
    text = select(relation, source, conditions, options)
    return Bound(text, source)


def _equals_tenant(relation: Relation, tenant: str) -> str:
    """The condition on the rows of one tenant, as a literal: a view has no bindings."""
    return f"{TABLE_ALIAS}.{quote(relation.tenant or '')} = {tenant_literal(relation.tenant_type, tenant)}"


def _in_tenants(relation: Relation, operator: str, tenants: tuple[str, ...]) -> str:
    """The condition on the rows of some tenants; empty for no tenants."""
    literals = ", ".join(tenant_literal(relation.tenant_type, t) for t in tenants)
    return f"{TABLE_ALIAS}.{quote(relation.tenant or '')} {operator} ({literals})" if tenants else ""


def in_block_range(backfill: str, after: int, upto: int) -> str:
    """The SQL of a view's backfill for the blocks of its source in (after, upto]."""
    return backfill.replace(f"{{{AFTER}:UInt64}}", str(after)).replace(f"{{{UPTO}:UInt64}}", str(upto))


def pool_table(workspace: str) -> Table:
    """The table with the ids of pooled tenants."""
    return Table(
        Name(workspace, storage.POOL_TABLE),
        (Column("id", "String"),),
        sorting_key="id",
        mark=Mark(workspace, storage.POOL_TABLE, "state"),
    )
