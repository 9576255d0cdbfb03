"""What pipes make of tenants' rows is tenants' rows: where it goes must say whose it is, or that all may read it.

A target without a tenant column is not filtered for its readers. So a pipe may bring rows there only if they are no
tenant's, if they are one tenant's (then its scopes keep it), or if the target's file declares them shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.compiler.build_state import BuildState, Undeclared, datasources_of
from engine.compiler.compose import Texts
from engine.compiler.groups import with_tenants
from engine.compiler.pipes import CompiledPipe, MaterializedTarget
from engine.compiler.scope import Relation
from engine.errors import ONE_TENANT_FOR_ALL, POOLED_ONLY, UNDECLARED_SHARE, Place, RookeryError
from engine.project.model import Datasource
from engine.sql.row_origin import MIXED, PUBLIC, Origin, merged, origin_of
from engine.sql.tenant_lineage import named


def origin_of_datasource(state: BuildState, name: str) -> Origin:
    """Whose rows a datasource holds."""
    relation = state.relations[name]
    if relation.tenant is not None:
        return Origin("carried", column=relation.tenant, type=relation.tenant_type)
    return state.origins.get(name, PUBLIC)


def judge_target(state: BuildState, pipe: CompiledPipe, target: MaterializedTarget, source: Datasource) -> str | None:
    """Hold whose rows a pipe brings against what its target declares. Raises RK2014, RK2015.

    Returns the view's text if it has to keep the tenants of each group.

    What is deployed like this already keeps working; what is wrong with it is noted in the state.
    """
    _warn_of_pooled_only(state, pipe, target)
    if source.tenant_column is not None:
        foreign = sorted(n for n in datasources_of(state, pipe.name, set()) if _unlabeled(state, n))
        if foreign:
            _report(state, pipe, target, _mislabeled(pipe, target, foreign))
        return None
    if source.shared.all:
        state.origins[target.name] = PUBLIC
        return None
    traced = _traced(state, pipe)
    if source.shared.min_tenants:
        state.origins[target.name] = MIXED
        return with_tenants(state, pipe, source, traced, _names(state, pipe), _trees(state, pipe))
    origin = traced.get(pipe.published, PUBLIC)
    before = state.origins.get(target.name, PUBLIC)
    together = state.origins[target.name] = merged([before, origin])
    if together == MIXED and not (before == MIXED and origin.kind in ("public", "pinned")):
        _report(state, pipe, target, _undeclared(state, pipe, target))
    return None


def warn_of_one_tenants_rows(state: BuildState, pipe: CompiledPipe) -> None:
    """Warn of an endpoint that puts one tenant's rows beside those of whoever calls it, or of another one."""
    origins = {n: origin_of_datasource(state, n) for n in datasources_of(state, pipe.name, set())}
    pinned = sorted(n for n, o in origins.items() if o.kind == "pinned")
    tenants = {origins[n].tenant for n in pinned}
    if not pinned or (len(tenants) == 1 and all(o.kind != "carried" for o in origins.values())):
        return
    state.warnings.append(
        RookeryError(
            ONE_TENANT_FOR_ALL,
            f"endpoint `{pipe.name}` reads `{pinned[0]}`, which holds the rows of tenant "
            f"{origins[pinned[0]].tenant} alone, beside other tenants' rows",
            hint="every tenant whose token allows the endpoint sees them; read a datasource with a tenant column",
            place=pipe.place,
        )
    )


def _unlabeled(state: BuildState, name: str) -> bool:
    """Whether a datasource holds tenants' rows that do not say whose they are."""
    return origin_of_datasource(state, name).kind in ("pinned", "mixed")


def _traced(state: BuildState, pipe: CompiledPipe) -> Mapping[str, Origin]:
    """The origins of a pipe's nodes and of all that they read, traced on the very texts that its view consists of."""
    known = {n: origin_of_datasource(state, n) for n in state.relations}
    reads = datasources_of(state, pipe.name, set())
    if all(known[n] == PUBLIC for n in reads):
        return known
    try:
        texts = state.composer.static_texts(state, pipe.name)
        return _trace(state, texts, pipe.name, known, _names(state, pipe))
    except RookeryError:
        return {**known, pipe.published: MIXED}


def _trace(
    state: BuildState, texts: Texts, pipe: str, known: Mapping[str, Origin], names: frozenset[str]
) -> Mapping[str, Origin]:
    found = dict(known)
    for node, text in texts[pipe]:
        for read in sorted(text.reads & texts.keys() - found.keys()):
            last = texts[read][-1][0]
            found[read] = _trace(state, texts, read, known, names)[last]
        found[node] = origin_of(state.composer.verifier.tree(text.canonical), found, names)
    return found


def _names(state: BuildState, pipe: CompiledPipe) -> frozenset[str]:
    """The columns and aliases of all that a pipe's view consists of."""
    columns = {c for n in datasources_of(state, pipe.name, set()) for c in state.relations[n].columns}
    return frozenset(name for tree in _trees(state, pipe) for name in named(tree)) | columns


def _trees(state: BuildState, pipe: CompiledPipe) -> list[Mapping[str, Any]]:
    """The syntax trees of all that a pipe's view consists of."""
    texts = state.composer.static_texts(state, pipe.name)
    return [state.composer.verifier.tree(text.canonical) for nodes in texts.values() for _, text in nodes]


def _report(state: BuildState, pipe: CompiledPipe, target: MaterializedTarget, problem: RookeryError) -> None:
    """Refuse, or note what is deployed already."""
    if state.tolerated is not None and pipe.name not in state.tolerated:
        raise problem
    state.undeclared.append(Undeclared(pipe.name, target.name, problem))
    state.warnings.append(problem)


def _undeclared(state: BuildState, pipe: CompiledPipe, target: MaterializedTarget) -> RookeryError:
    tenant = next((r.tenant for n in sorted(state.relations) if (r := state.relations[n]).tenant), "tenant_id")
    for name in sorted(datasources_of(state, pipe.name, set())):
        tenant = state.relations[name].tenant or tenant
    return RookeryError(
        UNDECLARED_SHARE,
        f"pipe `{pipe.name}` fills `{target.name}` with several tenants' rows, and `{target.name}` has no tenant "
        "column: everyone who may read it reads the rows of all tenants",
        hint=f"to share it with all tenants, write `shared: true` in {_file(state, target.name)}, or for an "
        "aggregate `shared: {min_tenants: 10}`; to give each tenant its own, declare "
        f"`tenant: {{column: {tenant}, landing: false}}` there, output `{tenant}` and say `per_tenant: true` in the "
        f"pipe; for one tenant alone, write `WHERE {tenant} = ‹id›` in every SELECT over tenants' rows",
        place=_place(state, pipe),
    )


def _mislabeled(pipe: CompiledPipe, target: MaterializedTarget, foreign: list[str]) -> RookeryError:
    return RookeryError(
        UNDECLARED_SHARE,
        f"pipe `{pipe.name}` reads `{foreign[0]}`, which holds tenants' rows without saying whose, and fills "
        f"`{target.name}`, whose rows belong to other tenants",
        hint=f"read a datasource with a tenant column instead of `{foreign[0]}`, or declare `{foreign[0]}` with "
        "`shared: true` if all tenants may read it",
        place=pipe.place,
    )


def _warn_of_pooled_only(state: BuildState, pipe: CompiledPipe, target: MaterializedTarget) -> None:
    """A view of the workspace's own reads a per-tenant target's shared table, which lacks tenants with tables."""
    if target.per_tenant:
        return
    split = sorted(n for n in datasources_of(state, pipe.name, set()) if in_nests(state.relations[n]))
    if split:
        state.warnings.append(
            RookeryError(
                POOLED_ONLY,
                f"pipe `{pipe.name}` fills `{target.name}` from `{split[0]}`, of which it sees the rows of pooled "
                "tenants only",
                hint="the rows of tenants with tables are in their nests; read the landing datasource instead, or "
                "say `per_tenant: true`",
                place=pipe.place,
            )
        )


def in_nests(relation: Relation) -> bool:
    """Whether a datasource's rows are partly in nests: the target of a per-tenant pipe."""
    return relation.kind == "target"


def _file(state: BuildState, name: str) -> str:
    source = state.project.datasources.get(name)
    return (source.place.file if source is not None else None) or f"datasources/{name}.yaml"


def _place(state: BuildState, pipe: CompiledPipe) -> Place:
    written = state.project.pipes[pipe.name].materialize
    return written.place_of("target") if written is not None else pipe.place
