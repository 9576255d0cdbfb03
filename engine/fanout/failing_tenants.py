"""Finds the tenants on whose rows a view fails, and whether it still fails.

To find out, the view's query runs over blocks of its source, and its result is discarded. A view that tenants share
need not be suspended if only a few tenants' rows make it fail: it can run without these tenants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from engine.compiler.storage import BATCH_COLUMN
from engine.compiler.views import in_block_range
from engine.errors import ENGINE_INTERNAL, TIMEOUT, RookeryError
from engine.fanout.handover import BatchBlocks
from engine.fanout.shared_views import ViewFactory, shared_view
from engine.plan.backfill import Range, block_ranges
from engine.schema import Name, Table, View, literal, quote
from engine.warehouse.errors import is_transient
from engine.workspace.workspace import Workspace

MAX_EXCLUDED_TENANTS = 16
"""Maximum number of tenants that one view may exclude. If it fails for more, its query is the cause and not their
rows.
"""
MAX_HALVINGS = 4
"""How often the memory limit is halved in the search for the tenants that take most of the memory."""
EARLIER_BLOCKS = 16
"""Number of blocks before a batch on which a view is tried if it fails for all tenants of the batch."""
TENANTS_PER_STATEMENT = 1000
"""Maximum number of tenants in the condition of one statement."""
REPEATABLE = (ENGINE_INTERNAL, TIMEOUT)
"""Errors that the same rows may cause every time, although other causes are possible."""


def find_failure_on_history(workspace: Workspace, view: View, target: Table | None = None) -> RookeryError | None:
    """The error of a view's query over the rows of its source, range by range, as a backfill reads them; None if it
    succeeds. `target` is the table that the view will fill, if it differs from the live one.
    """
    ranges = block_ranges(workspace.warehouse, view.log or view.source)
    failures = (find_failure(workspace, view, blocks, target=target) for blocks in ranges)
    return next((exc for exc in failures if exc is not None), None)


def find_failure(
    workspace: Workspace, view: View, blocks: Range, *, memory: int | None = None, target: Table | None = None
) -> RookeryError | None:
    """The error of a view's query over its source's blocks (after, upto]; None if it succeeds.

    The query may take at most `memory` bytes, if given. Raises errors that are unrelated to the rows.
    """
    types = {c.name: c.type for c in target.columns} if target is not None else _live_target(workspace, view)
    structure = ", ".join(f"{quote(n)} {t}" for n, t in types.items() if n in view.columns)
    names = ", ".join(map(quote, view.columns))
    rows = in_block_range(view.backfill, *blocks)
    limits = {"max_memory_usage": memory} if memory is not None else {}
    # The table function does not store anything, but it converts the rows to the types of the target, which may also
    # fail.
    try:
        workspace.warehouse.execute(f"INSERT INTO FUNCTION null({literal(structure)}) ({names}) {rows}", None, limits)
    except RookeryError as exc:
        if is_transient(exc) and exc.code not in REPEATABLE:
            raise
        return exc
    return None


def without_failing_tenants(
    workspace: Workspace, view: View, block: BatchBlocks, *, of_memory: bool = False
) -> View | None:
    """A live view in the form that excludes the tenants on whose rows in a block it fails.

    With `of_memory`, the INSERT exceeded its memory limit. If no tenant's rows do so alone, the tenants that take
    most of the memory are excluded.

    None if that does not help: the view fails on all tenants' rows, on those of too many tenants, or for another
    reason.
    """
    make = _live_view_factory(workspace, view, block.datasource)
    if make is None or view.mark is None:
        return None
    newest = _newest_block(workspace, block)
    if newest is None:
        return None
    number, present = newest
    excluded = set(view.excluded_tenants)
    candidates = sorted(present - excluded)

    def fails(memory: int, tenants: Sequence[str]) -> bool:
        view_of_some = make(tuple(tenants), ())
        return find_failure(workspace, view_of_some, (number - 1, number), memory=memory) is not None

    limit, failing = workspace.settings.commit_memory(), set[str]()
    for halvings in range(1 + MAX_HALVINGS if of_memory else 1):
        failing = failing or _bisect(partial(fails, limit >> halvings), candidates)
    if not failing or len(excluded | failing) > MAX_EXCLUDED_TENANTS:
        return None
    # If all tenants of the batch fail, the cause may be the query and not their rows.
    all_fail = len(failing) == len(candidates) > 1
    if all_fail and not _succeeds_before(workspace, make((), view.excluded_tenants), block, number):
        return None
    return make((), tuple(sorted(excluded | failing)))


def _succeeds_before(workspace: Workspace, view: View, block: BatchBlocks, number: int) -> bool:
    """Whether a view succeeds on the blocks before the one with this number, and these have any rows."""
    after, upto = max(0, number - 1 - EARLIER_BLOCKS), number - 1
    earlier = workspace.warehouse.query(
        f"SELECT 1 FROM {Name(workspace.name, block.datasource).sql()} "
        f"WHERE _block_number > {after} AND _block_number <= {upto} LIMIT 1"
    )
    memory = workspace.settings.commit_memory()
    return bool(earlier.rows) and find_failure(workspace, view, (after, upto), memory=memory) is None


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


def _live_view_factory(workspace: Workspace, view: View, datasource: str) -> ViewFactory | None:
    """Compiles other forms of a live view on landing. None if tenants do not share it, or if its query has changed.

    The forms are marked with the tenants that they exclude, so that the live schema shows what a view leaves out.
    """
    make = shared_view(workspace.current.build, view, Name(workspace.name, datasource))
    if make is None or view.mark is None:
        return None
    mark = make((), ()).mark
    if mark is None or mark.fingerprint != view.mark.fingerprint:
        return None

    def make_marked(only: tuple[str, ...], excluded: tuple[str, ...]) -> View:
        compiled = make(only, excluded)
        assert compiled.mark is not None
        return replace(compiled, mark=replace(compiled.mark, excluded_tenants=excluded))

    return make_marked


def _newest_block(workspace: Workspace, block: BatchBlocks) -> tuple[int, set[str]] | None:
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
