"""Checks that pipes do not share tenants' rows with other tenants unless the target's file says so.

A target without a tenant column is not filtered for its readers. A pipe may fill it only with rows of no tenant, with
rows of one tenant (whose scopes then protect the target), or with rows that the target's file declares as shared.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.compiler.assembly import Texts
from engine.compiler.build_state import BuildState, Undeclared, datasources_of
from engine.compiler.groups import ViewFacts, with_tenants
from engine.compiler.pipes import CompiledPipe, MaterializedTarget
from engine.compiler.scope import Relation
from engine.errors import ONE_TENANT_FOR_ALL, POOLED_ONLY, UNDECLARED_SHARE, Place, RookeryError
from engine.project.datasource import Datasource
from engine.sql.row_origin import MIXED, PUBLIC, Origin, merged_origin, origin_of
from engine.sql.tenant_lineage import names_of_values
from engine.sql.tree import Node as TreeNode


def origin_of_datasource(state: BuildState, name: str) -> Origin:
    """Whose rows a datasource holds."""
    relation = state.relations[name]
    if relation.tenant is not None:
        return Origin("carried", column=relation.tenant, type=relation.tenant_type)
    return state.origins.get(name, PUBLIC)


def check_sharing(
    state: BuildState, pipe: CompiledPipe, target: MaterializedTarget, source: Datasource
) -> str | None:
    """Compare whose rows a pipe stores with what its target declares. Raises RK2014 or RK2015.

    Returns the view's SQL if the view has to record the tenants of each group, else None. Tolerated pipes do not
    raise RK2014: they are listed in `state.undeclared` instead.
    """
    _warn_of_pooled_only(state, pipe, target)
    if source.tenant_column is not None:
        unlabeled = sorted(n for n in datasources_of(state, pipe.name, set()) if _unlabeled(state, n))
        if unlabeled:
            _raise_or_record(state, pipe, target, _mislabeled_error(pipe, target, unlabeled))
        return None
    if source.shared.all:
        state.origins[target.name] = PUBLIC
        return None
    traced = _origins(state, pipe)
    if source.shared.min_tenants:
        state.origins[target.name] = MIXED
        facts = ViewFacts(traced, _names(state, pipe), _trees(state, pipe))
        return with_tenants(state, pipe, source, facts)
    origin = traced.get(pipe.published, PUBLIC)
    earlier = state.origins.get(target.name, PUBLIC)
    # Several pipes may fill one target. Each of them may be harmless alone, but together they may mix tenants.
    together = state.origins[target.name] = merged_origin([earlier, origin])
    if together == MIXED and not (earlier == MIXED and origin.kind in ("public", "pinned")):
        _raise_or_record(state, pipe, target, _undeclared_error(state, pipe, target))
    return None


def warn_of_one_tenants_rows(state: BuildState, pipe: CompiledPipe) -> None:
    """Warn of an endpoint that shows one tenant's rows to the other tenants that may call it."""
    origins = {n: origin_of_datasource(state, n) for n in datasources_of(state, pipe.name, set())}
    pinned = sorted(n for n, o in origins.items() if o.kind == "pinned")
    tenants = {origins[n].tenant for n in pinned}
    if not pinned or (len(tenants) == 1 and all(o.kind != "carried" for o in origins.values())):
        return
    state.warnings.append(
        RookeryError(
            ONE_TENANT_FOR_ALL,
            f"endpoint `{pipe.name}` reads `{pinned[0]}`, which holds the rows of tenant "
            f"{origins[pinned[0]].tenant} only, together with other tenants' rows",
            hint="every tenant whose token allows the endpoint sees them; read a datasource with a tenant column",
            place=pipe.place,
        )
    )


def _unlabeled(state: BuildState, name: str) -> bool:
    """Whether a datasource holds tenants' rows without a tenant column."""
    return origin_of_datasource(state, name).kind in ("pinned", "mixed")


def _origins(state: BuildState, pipe: CompiledPipe) -> Mapping[str, Origin]:
    """Name → origin for a pipe's nodes and all that they read, derived from the SQL of its view."""
    known = {n: origin_of_datasource(state, n) for n in state.relations}
    reads = datasources_of(state, pipe.name, set())
    # Nothing that it reads belongs to a tenant, so there is nothing to trace.
    if all(known[n] == PUBLIC for n in reads):
        return known
    try:
        texts = state.composer.static_texts(state, pipe.name)
        return _trace(state, texts.by_pipe, pipe.name, known, _names(state, pipe))
    except RookeryError:
        # It cannot be determined whose rows it outputs, so assume the worst.
        return {**known, pipe.published: MIXED}


def _trace(
    state: BuildState, texts: Texts, pipe: str, known: Mapping[str, Origin], names: frozenset[str]
) -> Mapping[str, Origin]:
    """`known` with the origins of the nodes of a pipe, and of the pipes that it reads."""
    origins = dict(known)
    for node, text in texts[pipe]:
        for read in sorted(text.reads & texts.keys() - origins.keys()):
            last = texts[read][-1][0]
            origins[read] = _trace(state, texts, read, known, names)[last]
        origins[node] = origin_of(state.composer.verifier.tree(text.canonical), origins, names)
    return origins


def _names(state: BuildState, pipe: CompiledPipe) -> frozenset[str]:
    """The columns and aliases in all parts of a pipe's view."""
    columns = {c for n in datasources_of(state, pipe.name, set()) for c in state.relations[n].columns}
    return frozenset(name for tree in _trees(state, pipe) for name in names_of_values(tree)) | columns


def _trees(state: BuildState, pipe: CompiledPipe) -> list[TreeNode]:
    """The syntax trees of all parts of a pipe's view."""
    texts = state.composer.static_texts(state, pipe.name)
    return [state.composer.verifier.tree(text.canonical) for nodes in texts.by_pipe.values() for _, text in nodes]


def _raise_or_record(
    state: BuildState, pipe: CompiledPipe, target: MaterializedTarget, problem: RookeryError
) -> None:
    """Raise the problem, or record it if the pipe is tolerated because it is already deployed."""
    if state.tolerated is not None and pipe.name not in state.tolerated:
        raise problem
    state.undeclared.append(Undeclared(pipe.name, target.name, problem))
    state.warnings.append(problem)


def _undeclared_error(state: BuildState, pipe: CompiledPipe, target: MaterializedTarget) -> RookeryError:
    tenant = next((r.tenant for n in sorted(state.relations) if (r := state.relations[n]).tenant), "tenant_id")
    for name in sorted(datasources_of(state, pipe.name, set())):
        tenant = state.relations[name].tenant or tenant
    return RookeryError(
        UNDECLARED_SHARE,
        f"pipe `{pipe.name}` fills `{target.name}` with several tenants' rows, and `{target.name}` has no tenant "
        "column: every reader would see the rows of all tenants",
        hint=f"to share it with all tenants, write `shared: true` in {_file(state, target.name)}, or for an "
        "aggregate `shared: {min_tenants: 10}`; to give each tenant its own table, declare "
        f"`tenant: {{column: {tenant}, landing: false}}` there, output `{tenant}` and write `per_tenant: true` in "
        f"the pipe; for one tenant alone, write `WHERE {tenant} = ‹id›` in every SELECT over tenants' rows",
        place=_place(state, pipe),
    )


def _mislabeled_error(pipe: CompiledPipe, target: MaterializedTarget, unlabeled: list[str]) -> RookeryError:
    return RookeryError(
        UNDECLARED_SHARE,
        f"pipe `{pipe.name}` reads `{unlabeled[0]}`, which holds tenants' rows without their tenant, and fills "
        f"`{target.name}`, whose rows belong to other tenants",
        hint=f"read a datasource with a tenant column instead of `{unlabeled[0]}`, or declare `{unlabeled[0]}` with "
        "`shared: true` if all tenants may read it",
        place=pipe.place,
    )


def _warn_of_pooled_only(state: BuildState, pipe: CompiledPipe, target: MaterializedTarget) -> None:
    """Warn of a shared view over a per-tenant target: it does not read the rows in nests."""
    if target.per_tenant:
        return
    in_both = sorted(n for n in datasources_of(state, pipe.name, set()) if in_nests(state.relations[n]))
    if in_both:
        state.warnings.append(
            RookeryError(
                POOLED_ONLY,
                f"pipe `{pipe.name}` fills `{target.name}` from `{in_both[0]}`, and reads the rows of pooled tenants "
                "only",
                hint="the rows of tenants with tables are in their nests; read the landing datasource instead, or "
                "write `per_tenant: true`",
                place=pipe.place,
            )
        )


def in_nests(relation: Relation) -> bool:
    """Whether some of a datasource's rows are in nests, which is the case for targets of per-tenant pipes."""
    return relation.kind == "target"


def _file(state: BuildState, name: str) -> str:
    source = state.project.datasources.get(name)
    return (source.place.file if source is not None else None) or f"datasources/{name}.yaml"


def _place(state: BuildState, pipe: CompiledPipe) -> Place:
    materialize = state.project.pipes[pipe.name].materialize
    return materialize.place_of("target") if materialize is not None else pipe.place
