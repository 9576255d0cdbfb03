"""Fan-out as schema: which tables and views the workspace and each tenant's nest consist of.

A reader of the log is the workspace itself (ordinary materialized pipes), the pool (all pooled tenants together),
or one tenant's nest. The same pipe compiles for each of them; only what its names are bound to differs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Literal

from engine.compiler import storage
from engine.compiler.build import Build
from engine.compiler.compose import assemble
from engine.compiler.pipes import CompiledPipe, MaterializedTarget
from engine.compiler.scope import TABLE_ALIAS, Bound, Relation, is_encoded, select, tenant_literal
from engine.schema import Column, Mark, Name, Schema, Table, View, fingerprint, nest_database, quote

AFTER, UPTO = "rk_after", "rk_upto"
LOG_RANGE = (
    f"WHERE {TABLE_ALIAS}._block_number > {{{AFTER}:UInt64}} AND {TABLE_ALIAS}._block_number <= {{{UPTO}:UInt64}}"
)


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads the log: the workspace, the pool (or one tenant of it, for history), or a tenant's nest.

    The first two may read the rows of some tenants `only`, or `without` some.
    """

    kind: Literal["workspace", "pool", "nest"]
    tenant: str | None = None
    nest: str | None = None
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


WORKSPACE_READER = Reader("workspace")
POOL_READER = Reader("pool")


def nest_reader(workspace: str, tenant: str) -> Reader:
    return Reader("nest", tenant, nest_database(workspace, tenant))


def workspace_schema(build: Build) -> Schema:
    """Everything in the workspace's own database: datasources, shared targets and their views."""
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
    """Everything in one tenant's nest, in order of data flow. Copies of `routed` datasources have no view."""
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
    # What passes through an inlet is not kept there, so whatever hangs on it is there before it is fed.
    return Schema.of({reader.nest}, {t.name: t for t in tables}.values(), [*views, *feeds])


def pipe_views(build: Build, pipe: CompiledPipe, target: MaterializedTarget, reader: Reader) -> list[View]:
    """The views of a materialized pipe for one reader: one per branch of its UNION ALL, each on its own source."""
    database = reader.nest or build.workspace
    columns = tuple(
        c
        for c in target.columns
        if not (reader.kind == "nest" and target.drop_tenant_column and c == build.relations[target.name].tenant)
    )
    text = pipe.published_text()
    found = []
    for position, branch in enumerate(target.branches or text.branches):
        trigger = build.relations[target.triggers[position]]
        name = f"_rk_{pipe.name}" if position == 0 else f"_rk{position}_{pipe.name}"
        inlet = _inlet(build, trigger, reader)
        source = inlet or _stands_for(build, trigger, reader)[0]
        spelling = _spelling(build, pipe, reader, columns, trigger.name if inlet else None)
        nodes = tuple((n.name, n.static.canonical) for n in pipe.needed() if n.static)
        found.append(
            View(
                name=Name(database, name),
                target=Name(database, target.name),
                source=source,
                sql=_view_sql(build, pipe, branch, columns, partial(_live, build, reader, trigger, inlet)),
                columns=columns,
                backfill=_view_sql(build, pipe, branch, columns, partial(_past, build, reader, trigger)),
                mark=Mark(
                    build.workspace,
                    pipe.name,
                    "view",
                    tenant=reader.tenant,
                    fingerprint=f"{fingerprint(nodes, branch, str(source), position)}:{spelling}",
                ),
                log=Name(build.workspace, trigger.name) if inlet else None,
            )
        )
    return found


def _spelling(build: Build, pipe: CompiledPipe, reader: Reader, columns: tuple[str, ...], passing: str | None) -> str:
    """What tells two spellings of one view apart: its columns, and whether it re-encodes them.

    `passing` is the datasource whose rows come through an inlet.
    """
    reads = [build.relations[d] for d in build.pipes[pipe.name].datasources if d != passing]
    encoded = any(is_encoded(r) and _stands_for(build, r, reader)[1] for r in reads)
    return fingerprint(columns, "own") if encoded else fingerprint(columns)


def _view_sql(
    build: Build, pipe: CompiledPipe, branch: str, columns: tuple[str, ...], bind: Callable[[Relation], Bound]
) -> str:
    texts = build.composer.static_texts(build, pipe.name)
    return assemble(build, pipe.name, texts, lambda r, _how: bind(r), last=branch, columns=columns).sql


def _copy_view(build: Build, relation: Relation, reader: Reader) -> View:
    """The view that delivers a landing datasource's rows into the nest's copy."""
    assert reader.nest is not None
    assert reader.tenant is not None
    source = Name(build.workspace, relation.name)
    own = [_is(relation, reader.tenant)]
    return View(
        name=Name(reader.nest, f"_rk_{relation.name}"),
        target=Name(reader.nest, relation.name),
        source=source,
        sql=select(relation, source, own, clause="WHERE", encode="all"),
        columns=relation.columns,
        backfill=select(relation, source, own, suffix=LOG_RANGE, encode="all"),
        mark=Mark(build.workspace, relation.name, "view", reader.tenant, f"copy:{_delivered(relation)}"),
    )


def _delivered(relation: Relation) -> str:
    """What tells two spellings of a copy apart: its columns, and whether they are re-encoded."""
    return fingerprint(relation.columns, "own") if is_encoded(relation) else fingerprint(relation.columns)


def _stands_for(build: Build, relation: Relation, reader: Reader) -> tuple[Name, list[str]]:
    """The table that a relation stands for, for one reader, and the conditions on it."""
    shared = Name(build.workspace, relation.name)
    if reader.kind == "nest" and reader.nest and relation.in_nest:
        return Name(reader.nest, relation.name), []
    if relation.tenant is None:
        return shared, []
    if reader.tenant is not None:
        return shared, [_is(relation, reader.tenant)]
    if relation.kind != "landing":
        return shared, []
    conditions = [_among(relation, "IN", reader.only), _among(relation, "NOT IN", reader.without)]
    if reader.kind == "pool":
        pool = Name(build.workspace, storage.POOL_TABLE).sql()
        conditions.insert(0, f"toString({TABLE_ALIAS}.{quote(relation.tenant)}) IN (SELECT id FROM {pool})")
    return shared, [c for c in conditions if c]


def _inlet(build: Build, relation: Relation, reader: Reader) -> Name | None:
    """The table through which a landing datasource's rows pass into a nest that keeps no copy of them."""
    passes = reader.nest is not None and not relation.in_nest and build.reaches_nests(relation.name)
    return Name(reader.nest or "", relation.name) if passes else None


def _live(build: Build, reader: Reader, trigger: Relation, inlet: Name | None, relation: Relation) -> Bound:
    """A relation for a view, whose trigger may stand behind an inlet."""
    if inlet is not None and relation.name == trigger.name:
        return Bound(select(relation, inlet, []), inlet)
    return _bound(build, relation, reader)


def _past(build: Build, reader: Reader, trigger: Relation, relation: Relation) -> Bound:
    """A relation for the history of a view, which is bounded by blocks of the trigger."""
    return _bound(build, relation, reader, ranged=relation.name == trigger.name)


def _bound(build: Build, relation: Relation, reader: Reader, *, ranged: bool | None = None) -> Bound:
    """A relation for a view (WHERE) or, when `ranged` is given, for its history (PREWHERE, bounded if True)."""
    source, conditions = _stands_for(build, relation, reader)
    clause: Literal["PREWHERE", "WHERE"] = "WHERE" if ranged is None else "PREWHERE"
    # One tenant's rows, or the pool's, do not bring along what else is in the block.
    encode: Literal["", "all"] = "all" if conditions else ""
    text = select(relation, source, conditions, clause=clause, suffix=LOG_RANGE if ranged else "", encode=encode)
    return Bound(text, source)


def _is(relation: Relation, tenant: str) -> str:
    return f"{TABLE_ALIAS}.{quote(relation.tenant or '')} = {tenant_literal(relation.tenant_type, tenant)}"


def _among(relation: Relation, operator: str, tenants: tuple[str, ...]) -> str:
    literals = ", ".join(tenant_literal(relation.tenant_type, t) for t in tenants)
    return f"{TABLE_ALIAS}.{quote(relation.tenant or '')} {operator} ({literals})" if tenants else ""


def bounded(history: str, after: int, upto: int) -> str:
    """The SQL of a view's history over the blocks of its source in (after, upto]."""
    return history.replace(f"{{{AFTER}:UInt64}}", str(after)).replace(f"{{{UPTO}:UInt64}}", str(upto))


def pool_table(workspace: str) -> Table:
    """The table of pooled tenants' ids."""
    return Table(
        Name(workspace, storage.POOL_TABLE),
        (Column("id", "String"),),
        sorting_key="id",
        mark=Mark(workspace, storage.POOL_TABLE, "state"),
    )
