"""Compiles other forms of the views on landing that tenants share: for some tenants only, or without some."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from engine.compiler.build import Build
from engine.compiler.views import POOL_READER, WORKSPACE_READER, pipe_views
from engine.schema import Name, View

ViewFactory = Callable[[tuple[str, ...], tuple[str, ...]], View]
"""Compiles a view that tenants share: for some tenants only (empty: for all of them), and without some."""


def shared_view(build: Build, view: View, source: Name) -> ViewFactory | None:
    """Compiles other forms of a view on landing that tenants share; None for any other view."""
    pipe = build.pipes.get(view.mark.resource) if view.mark else None
    relation = build.relations.get(source.name)
    if pipe is None or pipe.target is None or relation is None or relation.kind != "landing":
        return None
    if view.source != source or view.name.database != build.workspace:
        return None
    target, reader = pipe.target, POOL_READER if pipe.target.per_tenant else WORKSPACE_READER
    if all(v.name != view.name for v in pipe_views(build, pipe, target, reader)):
        # A live view of a pipe that has changed.
        return None

    def make(only: tuple[str, ...], excluded: tuple[str, ...]) -> View:
        views = pipe_views(build, pipe, target, replace(reader, only=only, excluded=excluded))
        return next(v for v in views if v.name == view.name)

    return make
