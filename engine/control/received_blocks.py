"""What targets have received through their views: blocks of the sources, without those that suspended views lack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.compiler.build import Build
from engine.compiler.views import in_block_range
from engine.fanout.missing_rows import SUSPENDED_KIND, repairable, shared_view
from engine.plan.backfill import block_ranges
from engine.schema import Name, Schema, View
from engine.warehouse.catalog import read_schema
from engine.workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Received:
    """Rows that one form of a view has delivered: of blocks up to a number (None: of all), but for some batches."""

    view: View
    upto: int | None = None
    batches: tuple[str, ...] = ()


def received(workspace: Workspace, build: Build, views: Sequence[View]) -> list[Received]:
    """What the target of some of the workspace's views has received.

    A view that is down, or goes on without some tenants, will be given exactly what it lacks when it is put back.
    Where that is not known, its target is made again then, and it counts as whole.
    """
    live = read_schema(workspace.warehouse, workspace.name, [workspace.name])
    lacks = repairable(workspace, build, Schema.of((), (), views), live)
    found: list[Received] = []
    for view in views:
        if view.name not in lacks:
            found.append(Received(view))
            continue
        standing = live.views.get(view.name)
        without = standing.mark.without if standing is not None and standing.mark is not None else ()
        made = shared_view(build, view, view.source) if without else None
        if made is not None:
            found.append(Received(made((), without)))
        found += [Received(lack.view, lack.after, lack.batches) for lack in lacks[view.name]]
    return found


def unknown_lacks(workspace: Workspace, build: Build, views: Sequence[View]) -> str | None:
    """Why it is not known what one of the views lacks, if one does."""
    live = read_schema(workspace.warehouse, workspace.name, [workspace.name])
    lacks = repairable(workspace, build, Schema.of((), (), views), live)
    down = workspace.registry.read(SUSPENDED_KIND).keys()
    for view in views:
        standing = live.views.get(view.name)
        whole = standing is not None and not (standing.mark is not None and standing.mark.without)
        if str(view.name) in down and not whole and view.name not in lacks:
            return f"{view.name} is suspended, and it is not known which rows it lacks (rookery fanout repair)"
    return None


def selects(workspace: Workspace, part: Received, after: int, heads: dict[Name, int]) -> Iterator[str]:
    """SELECTs of a part's rows in the blocks of its source in (after, its head]."""
    source = part.view.source
    head = heads[source] if part.upto is None else min(part.upto, heads[source])
    ranges = [(after, head)]
    if part.batches:
        found = block_ranges(workspace.warehouse, source, after=after, without=part.batches)
        ranges = [(first, min(last, head)) for first, last in found]
    for first, last in ranges:
        if first < last:
            yield in_block_range(part.view.backfill, first, last)
