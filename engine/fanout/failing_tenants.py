"""Finds the tenants on whose rows a view fails, and whether it still fails.

To find out, the view's query runs over blocks of its source, and its result is discarded. A view that tenants share
need not be suspended if only a few tenants' rows make it fail: it can run without these tenants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from engine.compiler.storage import BATCH_COLUMN
from engine.compiler.views import POOL_READER, WORKSPACE_READER, in_block_range, pipe_views
from engine.errors import RookeryError
from engine.schema import Name, Table, View, literal, quote
from engine.workspace.workspace import Workspace

MAX_EXCLUDED_TENANTS = 16
"""Maximum number of tenants that one view may exclude. If it fails for more, its query is the cause and not their
rows.
"""
TENANTS_PER_STATEMENT = 1000
"""Maximum number of tenants in the condition of one statement."""
ALL_BLOCKS = 1 << 62
"""A number greater than all block numbers."""


@dataclass(frozen=True, slots=True)
class BlockRange:
    """The blocks of one batch in a datasource."""

    datasource: str
    batch: str
    counted: str = ""
    """A SELECT that counts its rows by tenant in the stage, including rows past a TTL; empty without a stage."""
    after: int | None = None
    """The newest block before the batch, for a datasource whose rows do not contain the id of their batch."""


def find_failure(
    workspace: Workspace, view: View, after: int = 0, upto: int = ALL_BLOCKS, target: Table | None = None
) -> str | None:
    """The error of a view's query over its source's blocks in (after, upto]; None if it succeeds.

    `target` is the table that the view will fill, if it differs from the live one.
    """
    types = {c.name: c.type for c in target.columns} if target is not None else _live_target(workspace, view)
    structure = ", ".join(f"{quote(n)} {t}" for n, t in types.items() if n in view.columns)
    names = ", ".join(map(quote, view.columns))
    rows = in_block_range(view.backfill, after, upto)
    try:
        workspace.warehouse.execute(f"INSERT INTO FUNCTION null({literal(structure)}) ({names}) {rows}")
    except RookeryError as exc:
        return exc.detail or exc.message
    return None


def without_failing_tenants(workspace: Workspace, view: View, block: BlockRange) -> View | None:
    """A live view in the form that excludes the tenants on whose rows in a block it fails.

    None if that does not help: the view fails on all tenants' rows, on those of too many tenants, or for another
    reason.
    """
    make = _shared_view(workspace, view, block.datasource)
    if make is None or view.mark is None:
        return None
    newest = _newest_block(workspace, block)
    if newest is None:
        return None
    number, present = newest
    excluded = set(view.mark.without)
    candidates = sorted(present - excluded)

    def fails(tenants: Sequence[str]) -> bool:
        return find_failure(workspace, make(tuple(tenants), ()), number - 1, number) is not None

    failing = _bisect(fails, candidates)
    if not failing or len(failing) == len(candidates) > 1 or len(excluded | failing) > MAX_EXCLUDED_TENANTS:
        return None
    return make((), tuple(sorted(excluded | failing)))


def _bisect(fails: Callable[[Sequence[str]], bool], tenants: Sequence[str]) -> set[str]:
    """The tenants that fail. Stops as soon as there are more than MAX_EXCLUDED_TENANTS."""
    failing: set[str] = set()
    pending = [
        tenants[start : start + TENANTS_PER_STATEMENT] for start in range(0, len(tenants), TENANTS_PER_STATEMENT)
    ]
    while pending and len(failing) <= MAX_EXCLUDED_TENANTS:
        group = pending.pop()
        if not fails(group):
            continue
        if len(group) == 1:
            failing.update(group)
        else:
            middle = len(group) // 2
            pending += [group[:middle], group[middle:]]
    return failing


def _shared_view(
    workspace: Workspace, view: View, datasource: str
) -> Callable[[tuple[str, ...], tuple[str, ...]], View] | None:
    """Compiles a live view on landing for only some tenants, or without some tenants. None if tenants do not share
    the view.
    """
    build = workspace.current.build
    pipe = build.pipes.get(view.mark.resource) if view.mark else None
    source = Name(workspace.name, datasource)
    relation = build.relations.get(datasource)
    if relation is None or relation.kind != "landing":
        # Rows of other datasources do not contain the id of their batch, and most have no tenant column.
        return None
    if pipe is None or pipe.target is None or view.source != source or view.name.database != workspace.name:
        return None
    target, reader = pipe.target, POOL_READER if pipe.target.per_tenant else WORKSPACE_READER

    def make(only: tuple[str, ...], without: tuple[str, ...]) -> View:
        views = pipe_views(build, pipe, target, replace(reader, only=only, without=without))
        compiled = next(v for v in views if v.name == view.name)
        assert compiled.mark is not None
        return replace(compiled, mark=replace(compiled.mark, without=without))

    marks = {v.name: v.mark for v in pipe_views(build, pipe, target, reader)}
    mark = marks.get(view.name)
    same = mark is not None and view.mark is not None and mark.fingerprint == view.mark.fingerprint
    return make if same else None


def _newest_block(workspace: Workspace, block: BlockRange) -> tuple[int, set[str]] | None:
    """The number of a batch's newest block, and the tenants with rows in the batch; None if it is not stored."""
    relation = workspace.current.build.relations[block.datasource]
    result = workspace.warehouse.query(
        f"SELECT max(_block_number), groupUniqArray(toString({quote(relation.tenant or '')})) "
        f"FROM {Name(workspace.name, block.datasource).sql()} WHERE {BATCH_COLUMN} = {{b:String}} HAVING count() > 0",
        {"b": block.batch},
    )
    return (int(result.rows[0][0]), set(result.rows[0][1])) if result.rows else None


def _live_target(workspace: Workspace, view: View) -> dict[str, str]:
    """The types of the columns that a view fills, by name."""
    result = workspace.warehouse.query(
        "SELECT name, type FROM system.columns WHERE database = {d:String} AND table = {t:String}",
        {"d": view.target.database, "t": view.target.name},
    )
    return {str(n): str(t) for n, t in result.rows if n in view.columns}
