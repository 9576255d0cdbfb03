"""Rows on which a view fails: of which tenants they are, and whether they are still there.

A view is tried over blocks of its source, into nowhere. A view that tenants share need not be taken down for rows of
a few of them: it goes on without these tenants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from engine.compiler.storage import BATCH_COLUMN
from engine.compiler.views import POOL_READER, WORKSPACE_READER, bounded, pipe_views
from engine.errors import RookeryError
from engine.schema import Name, Table, View, literal, quote
from engine.workspace.workspace import Workspace

MAX_EXCLUDED_TENANTS = 16
"""Tenants that one view is left without; when there are more, it is the view that fails and not their rows."""
TENANTS_PER_STATEMENT = 1000
"""Tenants that a statement names."""
EVERY_BLOCK = 1 << 62


@dataclass(frozen=True, slots=True)
class BlockRange:
    """A batch that is in a datasource, and that a view failed on.

    `counted` is a SELECT of its rows by tenant from the stage, which has also those that are past a TTL already.
    `after` is the newest block before it, for a datasource whose rows do not name their batch.
    """

    datasource: str
    batch: str
    counted: str = ""
    after: int | None = None


def find_failure(
    workspace: Workspace, view: View, after: int = 0, upto: int = EVERY_BLOCK, target: Table | None = None
) -> str | None:
    """Why a view's query fails on its source's blocks in (after, upto], or None if it does not.

    `target` is what it will deliver into, if that is not what is there.
    """
    types = {c.name: c.type for c in target.columns} if target is not None else _target(workspace, view)
    structure = ", ".join(f"{quote(n)} {t}" for n, t in types.items() if n in view.columns)
    names = ", ".join(map(quote, view.columns))
    rows = bounded(view.backfill, after, upto)
    try:
        workspace.warehouse.execute(f"INSERT INTO FUNCTION null({literal(structure)}) ({names}) {rows}")
    except RookeryError as exc:
        return exc.detail or exc.message
    return None


def without_failing_tenants(workspace: Workspace, view: View, block: BlockRange) -> View | None:
    """A live view as it goes on without the tenants on whose rows in a block it fails.

    None where that does not help: it fails on everybody's rows, on too many tenants', or for another reason.
    """
    made = _shared_view(workspace, view, block.datasource)
    if made is None or view.mark is None:
        return None
    found = _newest(workspace, block)
    if found is None:
        return None
    number, present = found
    left_out = set(view.mark.without)
    tried = sorted(present - left_out)

    def fails(tenants: Sequence[str]) -> bool:
        return find_failure(workspace, made(tuple(tenants), ()), number - 1, number) is not None

    poisoned = _search(fails, tried)
    if not poisoned or len(poisoned) == len(tried) > 1 or len(left_out | poisoned) > MAX_EXCLUDED_TENANTS:
        return None
    return made((), tuple(sorted(left_out | poisoned)))


def _search(fails: Callable[[Sequence[str]], bool], tenants: Sequence[str]) -> set[str]:
    """The tenants that fail, by halves; the search ends when there are too many."""
    found: set[str] = set()
    pending = [
        tenants[start : start + TENANTS_PER_STATEMENT] for start in range(0, len(tenants), TENANTS_PER_STATEMENT)
    ]
    while pending and len(found) <= MAX_EXCLUDED_TENANTS:
        some = pending.pop()
        if not fails(some):
            continue
        if len(some) == 1:
            found.update(some)
        else:
            middle = len(some) // 2
            pending += [some[:middle], some[middle:]]
    return found


def _shared_view(
    workspace: Workspace, view: View, datasource: str
) -> Callable[[tuple[str, ...], tuple[str, ...]], View] | None:
    """What makes a view on landing that tenants share for some tenants only, or without some."""
    build = workspace.current.build
    pipe = build.pipes.get(view.mark.resource) if view.mark else None
    source = Name(workspace.name, datasource)
    relation = build.relations.get(datasource)
    if relation is None or relation.kind != "landing":
        # Rows of other datasources do not name their batch, and mostly no tenant.
        return None
    if pipe is None or pipe.target is None or view.source != source or view.name.database != workspace.name:
        return None
    target, reader = pipe.target, POOL_READER if pipe.target.per_tenant else WORKSPACE_READER

    def make(only: tuple[str, ...], without: tuple[str, ...]) -> View:
        views = pipe_views(build, pipe, target, replace(reader, only=only, without=without))
        found = next(v for v in views if v.name == view.name)
        assert found.mark is not None
        return replace(found, mark=replace(found.mark, without=without))

    names = {v.name: v.mark for v in pipe_views(build, pipe, target, reader)}
    mark = names.get(view.name)
    same = mark is not None and view.mark is not None and mark.fingerprint == view.mark.fingerprint
    return make if same else None


def _newest(workspace: Workspace, block: BlockRange) -> tuple[int, set[str]] | None:
    """The number of a batch's block, and the tenants whose rows are in it."""
    relation = workspace.current.build.relations[block.datasource]
    found = workspace.warehouse.query(
        f"SELECT max(_block_number), groupUniqArray(toString({quote(relation.tenant or '')})) "
        f"FROM {Name(workspace.name, block.datasource).sql()} WHERE {BATCH_COLUMN} = {{b:String}} HAVING count() > 0",
        {"b": block.batch},
    )
    return (int(found.rows[0][0]), set(found.rows[0][1])) if found.rows else None


def _target(workspace: Workspace, view: View) -> dict[str, str]:
    """Types of the columns that a view delivers."""
    found = workspace.warehouse.query(
        "SELECT name, type FROM system.columns WHERE database = {d:String} AND table = {t:String}",
        {"d": view.target.database, "t": view.target.name},
    )
    return {str(n): str(t) for n, t in found.rows if n in view.columns}
