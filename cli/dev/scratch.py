"""The scratch workspace of `rookery dev`: the last good state of the project, with sample rows.

If only endpoints and their pipes change, they are pushed to the workspace. Any other change gets a new workspace,
which replaces the old one once it is complete: so stored rows are always those that the files now produce, and no
change is incompatible.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from cli.dev.inputs import Inputs
from cli.offline_check import OfflineCompiler
from cli.testing.engine import ThrowawayEngine
from cli.testing.rows import Fixture
from cli.testing.workspace import Prepared, bad_row, prepare, push, unknown_keys
from engine.compiler.build import Build
from engine.errors import BAD_ROW, Place, RookeryError

MAX_BAD_ROWS = 10_000
"""Maximum number of bad rows of a datasource that are reported."""


@dataclass(frozen=True, slots=True)
class State:
    """A good state of the project in a workspace."""

    inputs: Inputs
    build: Build
    workspace: Prepared
    rows: int
    """Number of sample rows in the workspace."""


@dataclass(slots=True)
class Loaded:
    """How many sample rows were loaded, and what is wrong with the others."""

    rows: int = 0
    errors: list[RookeryError] = field(default_factory=list)
    warnings: list[RookeryError] = field(default_factory=list)


class Scratch:
    """Keeps one workspace on an engine. Used by one thread."""

    def __init__(self, engine: ThrowawayEngine, step: Callable[[], None]) -> None:
        """`step` is called between the steps of an update. It may raise an exception to end it."""
        self._engine, self._step = engine, step
        self._compile = OfflineCompiler(engine.warehouse)
        self._opened = ExitStack()
        self._loaded = Loaded()
        self.state: State | None = None

    def compile(self, inputs: Inputs) -> Build:
        """The build of the files. Raises Problems with everything that is wrong in them."""
        return self._compile(inputs.survey)

    def update(self, inputs: Inputs, build: Build) -> Loaded:
        """Make the workspace what the files declare. Returns what is wrong with the sample rows in it.

        If it raises the errors of a push, the last state stays.
        """
        before = self.state
        if before is None or stores_differ(before, inputs, build):
            return self._replace(inputs, build)
        connection, project = before.workspace.connection, inputs.survey.project
        try:
            push(connection, project)
        except RookeryError:
            # A push may refuse a change to deployed files. A new workspace has none; what it refuses is reported.
            return self._replace(inputs, build)
        # Tokens for queries list the endpoints that they allow, so they are minted again.
        self.state = State(inputs, build, Prepared(connection, project, before.workspace.zone), before.rows)
        return self._loaded

    def _replace(self, inputs: Inputs, build: Build) -> Loaded:
        """Create a new workspace with the sample rows, and close the old one."""
        with ExitStack() as opened:
            connection = opened.enter_context(self._engine.workspace())
            self._step()
            workspace = prepare(connection, inputs.survey.project, inputs.placements)
            loaded = self._load(workspace, inputs.fixtures)
            previous, self._opened = self._opened, opened.pop_all()
        self.state, self._loaded = State(inputs, build, workspace, loaded.rows), loaded
        # Closed last: if the new workspace fails, the old one stays in use.
        previous.close()
        return loaded

    def close(self) -> None:
        """Close the workspace."""
        self._opened.close()

    def _load(self, workspace: Prepared, fixtures: Sequence[Fixture]) -> Loaded:
        """Append the sample rows, and wait until they are delivered."""
        loaded = Loaded()
        quarantined: dict[str, list[Fixture]] = defaultdict(list)
        for fixture in fixtures:
            self._step()
            if not fixture.rows:
                continue
            try:
                response = workspace.send(fixture, fixture.rows)
            except RookeryError as exc:
                loaded.errors.append(exc)
                continue
            loaded.rows += int(response["rows"])
            if response["quarantine_rows"]:
                quarantined[fixture.datasource].append(fixture)
            elif response.get("refused_rows"):
                loaded.errors.append(bad_row(fixture, fixture.rows, response.get("first_bad_row")))
            if unknown := unknown_keys(response):
                message = f"`{fixture.datasource}` has no column for {', '.join(unknown)}"
                loaded.warnings.append(RookeryError(BAD_ROW, message, place=fixture.place))
        for datasource, own in quarantined.items():
            loaded.errors.extend(_bad_rows(workspace, datasource, own))
        self._step()
        workspace.wait_for_delivery()
        return loaded


def _bad_rows(workspace: Prepared, datasource: str, fixtures: Iterable[Fixture]) -> list[RookeryError]:
    """An error for each row in quarantine, with its place, in the order of the files."""
    places: dict[bytes, list[Place]] = defaultdict(list)
    for fixture in fixtures:
        # Rows may be equal. Reversed, so that `pop` takes their places in the order of the file.
        for row in reversed(fixture.rows):
            places[row.text.strip()].append(row.place)
    path = f"/v0/datasources/{datasource}/quarantine"
    rows = workspace.connection.json("GET", path, params={"limit": MAX_BAD_ROWS})["rows"]
    errors = []
    for row in rows:
        known = places.get(str(row["c__text"]).strip().encode())
        place = known.pop() if known else next(iter(fixtures)).place
        message = f"the row cannot be stored in `{datasource}`: {'; '.join(_reasons(row))}"
        errors.append(RookeryError(BAD_ROW, message, place=place))
    return sorted(errors, key=lambda e: ((e.place or Place()).file or "", (e.place or Place()).line or 0))


def _reasons(row: dict[str, Any]) -> Iterator[str]:
    for column, reason in zip(row["c__error_column"], row["c__error"], strict=True):
        yield f"`{column}`: {reason}" if column else reason


def stores_differ(before: State, inputs: Inputs, build: Build) -> bool:
    """Whether stored rows may differ from those of an earlier state."""
    if before.inputs.rows != inputs.rows or before.inputs.placements != inputs.placements:
        return True
    stored = {name for b in (before.build, build) for name in (*b.datasources, *b.filling_pipes())}
    return not stored.isdisjoint(changed_resources(before.inputs, inputs))


def changed_resources(before: Inputs, inputs: Inputs) -> set[str]:
    """Names of the resources whose files were added, removed or changed."""
    old, new = before.texts, inputs.texts
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def affected_pipes(before: State | None, inputs: Inputs, build: Build) -> list[str]:
    """The pipes whose results may differ from those of an earlier state, in order of data flow."""
    if before is None:
        return [name for name in build.order if name in build.pipes]
    old, new = before.inputs.rows, inputs.rows
    affected = changed_resources(before.inputs, inputs)
    affected |= {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    for name in build.order:
        pipe = build.pipes.get(name)
        filled_by = {p.name for p in build.pipes.values() if p.target and p.target.name == name}
        sources = pipe.reads if pipe else filled_by
        if not affected.isdisjoint(sources):
            affected.add(name)
        if pipe and pipe.target and pipe.target.name in affected and name not in affected:
            # Its target is stored differently.
            affected.add(name)
    return [name for name in build.order if name in affected and name in build.pipes]
