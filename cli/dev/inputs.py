"""What `rookery dev` reads: the project's files, its test files, and sample rows. Importing this imports pydantic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cli.options import options
from cli.project_files import surveyed
from cli.testing.clock import Clock
from cli.testing.rows import FORMATS, Fixture, fixture, named_file, read_file
from cli.testing.runner import suite_fixture, tenant_type, tenants_of
from engine.errors import NO_FILE, UNKNOWN_TABLE, Collector, Place, RookeryError, did_you_mean
from engine.project.overlooked import overlooked
from engine.project.parse import Survey
from engine.project.suite import Placement, Suite
from engine.project.suites import load_suites
from engine.tenant_ids import canonical_tenant

MAX_SAMPLE_BYTES = 16 << 20
"""Largest file of sample rows. It is read again on each save."""


@dataclass(frozen=True, slots=True)
class Choices:
    """The options of the command."""

    data: Mapping[str, Path]
    """Datasource → the file with its sample rows."""
    tenant: str | None
    """The tenant whose token calls pipes; None for an admin."""
    test: bool
    rows: int
    """Rows to show of each result."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything that was read at one time."""

    survey: Survey
    suites: tuple[Suite, ...]
    expected: Mapping[str, tuple[bytes, ...]]
    """Test file → the contents of the files with expected rows that it names."""
    fixtures: tuple[Fixture, ...]
    """Sample rows, in the order in which they are loaded. Several may be of the same datasource."""
    placements: Mapping[str, Placement]
    """The tenants of the sample rows."""
    problems: tuple[RookeryError, ...]
    """Problems of test files and sample rows. `survey` has those of the project's files."""
    warnings: tuple[RookeryError, ...]

    @property
    def texts(self) -> dict[str, str]:
        """Resource → the text of its file."""
        return {r.name: r.text for r in self.survey.project.resources()}

    @property
    def rows(self) -> dict[str, list[bytes]]:
        """Datasource → its sample rows as they are sent."""
        rows: dict[str, list[bytes]] = {}
        for one in self.fixtures:
            rows.setdefault(one.datasource, []).append(one.body(one.rows))
        return rows

    def same_as(self, other: Inputs) -> bool:
        """Whether nothing has changed, except for line numbers of tests and rows."""
        return not self.changed_files(other) and self.placements == other.placements

    def changed_files(self, before: Inputs) -> list[str]:
        """The files whose content differs from an earlier one."""
        old, new = before._contents(), self._contents()
        return sorted(file for file in old.keys() | new.keys() if old.get(file) != new.get(file))

    def _contents(self) -> dict[str, list[object]]:
        """File → what was read from it, and what is wrong with it."""
        contents: dict[str, list[object]] = {}
        for resource in self.survey.project.resources():
            contents.setdefault(resource.place.file or "", []).append(resource.text)
        for problem in (*self.survey.problems.problems, *self.problems, *self.warnings):
            contents.setdefault((problem.place and problem.place.file) or "", []).append(str(problem))
        for suite in self.suites:
            contents.setdefault(suite.file, []).extend((suite, self.expected[suite.file]))
        for one in self.fixtures:
            file = one.rows[0].place.file if one.rows else one.place.file
            contents.setdefault(file or "", []).append((one.datasource, one.body(one.rows)))
        return contents


def read(choices: Choices, clock: Clock) -> Inputs:
    """Read everything again. Relative times of fixtures are those of the clock.

    Raises RK7004 outside a project.
    """
    survey, problems = surveyed(), Collector()
    try:
        suites = load_suites(options.project)
    except RookeryError as problem:
        problems.add(problem)
        suites = ()
    fixtures = list(_chosen(choices, survey, problems))
    tenants = {row.tenant: None for one in fixtures for row in one.rows if row.tenant is not None}
    for suite in suites:
        own = list(_declared(choices, survey, suite, clock, problems))
        fixtures += own
        tenants |= dict.fromkeys(tenants_of(survey.project, suite, own, problems))
    return Inputs(
        survey,
        suites,
        {suite.file: tuple(_expected(suite)) for suite in suites},
        tuple(fixtures),
        _placements(choices, survey, suites, tenants, problems),
        tuple(problems.problems),
        tuple(overlooked(options.project)),
    )


def _chosen(choices: Choices, survey: Survey, problems: Collector) -> Iterator[Fixture]:
    """Yield the sample rows of --data."""
    for name, path in choices.data.items():
        place = Place(_shown(path))
        datasource = survey.project.datasources.get(name)
        if datasource is None:
            if name not in survey.unreadable:
                hint = did_you_mean(name, survey.project.datasources)
                message = f"--data {name}: unknown datasource `{name}`"
                problems.add(RookeryError(UNKNOWN_TABLE, message, hint=hint, place=place))
            continue
        try:
            _check_sample(path, place)
            rows = fixture(datasource, place.file, options.project.absolute(), Place())
            yield replace(rows, place=place)
        except RookeryError as problem:
            problems.add(problem)


def _check_sample(path: Path, place: Place) -> None:
    """Raise RK1008 for a file that cannot be used as sample rows."""
    if path.suffix not in FORMATS:
        raise RookeryError(
            NO_FILE, f"the format of `{path.name}` is unknown", hint="use .ndjson or .csv", place=place
        )
    try:
        size = path.stat().st_size
    except OSError as exc:
        raise RookeryError(NO_FILE, f"--data: {path.name} cannot be read: {exc.strerror}", place=place) from exc
    if size > MAX_SAMPLE_BYTES:
        message = f"`{path.name}` is larger than {MAX_SAMPLE_BYTES >> 20} MiB"
        raise RookeryError(NO_FILE, message, hint="a part of it is enough: head -n 10000", place=place)


def _shown(path: Path) -> str:
    """A path as messages show it: relative to the project if it lies there."""
    root = options.project.absolute()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _declared(choices: Choices, survey: Survey, suite: Suite, clock: Clock, problems: Collector) -> Iterator[Fixture]:
    """Yield the fixtures of a test file, without those that --data replaces."""
    folder = (options.project / suite.file).parent
    for name, value in suite.fixtures.items():
        if name in choices.data or name in survey.unreadable:
            continue
        try:
            yield suite_fixture(survey.project, suite, folder, name, clock.resolved(value))
        except RookeryError as problem:
            problems.add(problem)


def _placements(
    choices: Choices, survey: Survey, suites: Sequence[Suite], tenants: Iterable[str], problems: Collector
) -> dict[str, Placement]:
    """The tenants to add, pooled unless a test file says otherwise. Rows with other ids will go to quarantine."""
    # Reversed: the first test file that declares a tenant decides.
    declared = {tenant: placement for suite in reversed(suites) for tenant, placement in suite.tenants}
    type, placements = tenant_type(survey.project), dict[str, Placement]()
    for tenant in dict.fromkeys((*([choices.tenant] if choices.tenant is not None else ()), *tenants)):
        try:
            canonical_tenant(type, tenant)
        except RookeryError as exc:
            if tenant == choices.tenant:
                place = Place(part="--tenant")
                problems.add(RookeryError(exc.code, exc.message, hint=exc.hint, place=place))
            continue
        placements[tenant] = declared.get(tenant) or "pooled"
    return placements


def _expected(suite: Suite) -> Iterator[bytes]:
    folder = (options.project / suite.file).parent
    for case in suite.tests:
        if case.expect_file is not None:
            try:
                place = case.place_of("expect_file")
                yield read_file(named_file(folder, case.expect_file, place), place)
            except RookeryError:
                # The test reports it.
                yield b""
