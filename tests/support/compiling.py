"""Compiling projects in tests, against a real engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from engine.compiler.build import Build
from engine.control.push import PushOptions, PushResult, push
from engine.errors import Problems, RookeryError
from engine.project.check import check
from engine.settings import load
from engine.workspace.opening import open_workspace
from engine.workspace.snapshot import DeployedFile, parse_sources
from engine.workspace.workspace import Workspace

EVENTS = """
tenant: tenant_id
columns:
  - {name: tenant_id, type: UInt32}
  - {name: at, type: DateTime, default: now()}
  - {name: kind, type: String}
  - {name: units, type: Float64, default: "1"}
engine: {sorting_key: [tenant_id, at]}
"""
DAILY = """
tenant: {column: tenant_id, landing: false}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: day, type: Date}
  - {name: units, type: Float64}
engine: {type: SummingMergeTree, sorting_key: [tenant_id, day], columns: [units]}
"""
SUMS = """
sql: |
  SELECT tenant_id, toDate(at) AS day, sum(units) AS units FROM events GROUP BY tenant_id, day
materialize: {target: daily, per_tenant: true}
"""
USAGE = """
sql: |
  SELECT day, sum(units) AS units FROM daily GROUP BY day ORDER BY day
"""
BASE = {"events": EVENTS, "daily": DAILY, "sums": SUMS, "usage": USAGE}


def sources(files: Mapping[str, str]) -> dict[str, DeployedFile]:
    return {name: DeployedFile(text, f"{name}.yaml") for name, text in files.items()}


@contextmanager
def temporary_workspace(directory: Path) -> Iterator[Workspace]:
    """An open workspace with its own engine."""
    workspace = open_workspace(load(data=directory / "data", readers=2, writers=3))
    try:
        yield workspace
    finally:
        workspace.close()


def compiled(workspace: Workspace, files: Mapping[str, str]) -> Build:
    """What files compile to; problems are raised as a push would."""
    project = parse_sources(sources(files))
    problems = check(project)
    if problems:
        raise Problems(problems)
    return workspace.compile(project)


def pushed(workspace: Workspace, files: Mapping[str, str], *allow: str, **options: bool) -> PushResult:
    return push(workspace, sources(files), PushOptions(allow=frozenset(allow), **options))


def problems_of(workspace: Workspace, files: Mapping[str, str]) -> list[RookeryError]:
    """The problems that compiling raises; an empty list if it succeeds."""
    try:
        compiled(workspace, files)
    except Problems as exc:
        return exc.problems
    except RookeryError as exc:
        return [exc]
    return []
