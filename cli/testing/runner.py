"""Runs test files: prepares workspaces with their rows, calls endpoints, and compares the answers.

Each file is run with its rows once for each arrangement of tenants (`pooled`, `tables`, or as it declares). Rows are
appended tenant by tenant, which shows whether tenants are isolated: the rows that arrive after a tenant's own must
not change its answers. One more workspace is loaded in the opposite order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from cli.testing import compare
from cli.testing.clock import Clock
from cli.testing.compare import Rules
from cli.testing.engine import ThrowawayEngine
from cli.testing.expected_files import write_rows
from cli.testing.model import Answer, Call, Difference, Outcome
from cli.testing.rows import Fixture, FixtureRow, expected_rows, fixture, named_file, parameter
from cli.testing.values import Row, cell_of_yaml
from cli.testing.workspace import Prepared, prepare
from engine.errors import UNKNOWN_TABLE, UNKNOWN_TENANT, Collector, RookeryError, did_you_mean
from engine.project.model import Project
from engine.project.source import YamlList, YamlMapping, shown
from engine.project.suite import Case, Placement, Suite
from engine.tenant_ids import base_type, canonical_tenant

AS_DECLARED = "as declared"


@dataclass(frozen=True, slots=True)
class Plan:
    """A test file with the tests to run."""

    suite: Suite
    cases: Sequence[Case]
    folder: Path
    """The directory of the file."""
    fixtures: Sequence[Fixture]
    tenants: tuple[str, ...]
    update: bool
    """Whether files with expected rows are written from the results."""
    written: set[Path] = field(default_factory=set)
    """Files that an earlier arrangement of tenants has written. Later arrangements must give the same rows."""

    def isolated(self) -> Sequence[Case]:
        """The tests whose results must not depend on other tenants' rows."""
        if len(self.tenants) < 2:
            return ()
        return [case for case in self.cases if case.tenant is not None and case.isolated]

    def arrangements(self) -> Sequence[Arrangement]:
        """The workspaces to run the tests in."""
        if not self.tenants:
            return [Arrangement("pooled", {}, ())]
        there, back = self.tenants, tuple(reversed(self.tenants))
        if self.suite.placed:
            declared = dict(self.suite.tenants)
            first = Arrangement(AS_DECLARED, {t: declared.get(t) or "pooled" for t in there}, there)
        else:
            first = Arrangement("pooled", dict.fromkeys(there, "pooled"), there)
        arrangements = [first]
        if not self.suite.placed:
            arrangements.append(Arrangement("tables", dict.fromkeys(there, "tables"), there))
        if self.isolated():
            arrangements.append(replace(first, order=back, judged=False))
        return arrangements


@dataclass(frozen=True, slots=True)
class Arrangement:
    """A workspace with all rows of a file."""

    name: str
    placements: Mapping[str, Placement]
    order: tuple[str, ...]
    """The tenants in the order in which their rows are appended. Isolation is only known for those without rows yet,
    so one placement is loaded in both orders."""
    judged: bool = True
    """Whether results are compared with what the tests expect, or only isolation is checked."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which tests to run, and how."""

    root: Path
    """The directory of the project."""
    text: str
    """Text that a test's file or name must contain, regardless of case."""
    clock: Clock
    update: bool
    """Whether files with expected rows are written from the results."""

    def includes(self, suite: Suite, case: Case) -> bool:
        """Whether a test of a file is selected."""
        return self.text.lower() in f"{suite.file}::{case.name}".lower()


def planned(project: Project, suite: Suite, selection: Selection) -> Plan:
    """The plan for a test file. Raises Problems for fixtures and tests that do not fit the project."""
    problems = Collector()
    folder = (selection.root / suite.file).parent
    fixtures = []
    for name, value in suite.fixtures.items():
        try:
            fixtures.append(suite_fixture(project, suite, folder, name, selection.clock.resolved(value)))
        except RookeryError as problem:
            problems.add(problem)
    cases = [_at(case, selection.clock) for case in suite.tests if selection.includes(suite, case)]
    endpoints = [name for name, pipe in project.pipes.items() if pipe.kind == "endpoint"]
    for case in cases:
        if case.endpoint is not None and case.endpoint not in endpoints:
            hint = _near(case.endpoint, endpoints) or "a test can call the endpoints of the project"
            message = f"unknown endpoint `{case.endpoint}`"
            problems.add(RookeryError(UNKNOWN_TABLE, message, hint=hint, place=case.place_of("endpoint")))
    tenants = tenants_of(project, suite, fixtures, problems)
    problems.raise_if_any()
    return Plan(suite, cases, folder, fixtures, tenants, selection.update)


def _at(case: Case, clock: Clock) -> Case:
    """A test with times instead of relative times."""
    params = {name: clock.resolved(value) for name, value in case.params.items()}
    return case.model_copy(update={"params": params, "expect": clock.resolved(case.expect)})


def suite_fixture(project: Project, suite: Suite, folder: Path, name: str, value: object) -> Fixture:
    """The fixture of a datasource from its value in a test file in a folder. Raises RK1010, RK1008 and RK5001."""
    place = suite.fixture_place(name)
    datasource = project.datasources.get(name)
    if datasource is None:
        hint = _near(name, list(project.datasources))
        raise RookeryError(UNKNOWN_TABLE, f"unknown datasource `{name}`", hint=hint, place=place)
    if not isinstance(value, YamlList):
        named_file(folder, str(value), place)
    return fixture(datasource, value, folder, place)


def _near(name: str, known: Sequence[str]) -> str | None:
    return did_you_mean(name, known)


def tenants_of(project: Project, suite: Suite, fixtures: Sequence[Fixture], problems: Collector) -> tuple[str, ...]:
    """The tenants to add: those that the file lists or, by default, those of its rows and tests."""
    named = [(row.tenant, row.place) for f in fixtures for row in f.rows if row.tenant is not None]
    named += [(case.tenant, case.place_of("tenant")) for case in suite.tests if case.tenant is not None]
    declared = [tenant for tenant, _ in suite.tenants]
    type = tenant_type(project)
    for tenant, place in [*((t, suite.place_of("tenants")) for t in declared), *named]:
        if declared and tenant not in declared:
            message, hint = f"tenant {shown(tenant)} is not among `tenants`", ", ".join(declared[:20])
            problems.add(RookeryError(UNKNOWN_TENANT, message, hint=f"tenants of the file: {hint}", place=place))
            continue
        try:
            canonical_tenant(type, tenant)
        except RookeryError as exc:
            problems.add(RookeryError(exc.code, exc.message, hint=exc.hint, place=place))
    return tuple(dict.fromkeys(declared or [tenant for tenant, _ in named]))


def tenant_type(project: Project) -> str:
    """The type of tenant ids: that of the first tenant column, `String` without one."""
    columns = (d.column(d.tenant_column) for d in project.datasources.values() if d.tenant_column)
    return next((base_type(column.type) for column in columns if column), "String")


@dataclass(slots=True)
class Runner:
    """Runs plans on one engine."""

    engine: ThrowawayEngine
    project: Project
    report: Callable[[Outcome], None]
    """Called after each test."""
    warn: Callable[[str], None]
    _warned: set[str] = field(default_factory=set)

    def run(self, plan: Plan) -> None:
        """Run the tests of a file."""
        leaks: dict[int, _Leak] = {}
        started = time.perf_counter()
        for arrangement in plan.arrangements():
            with self.engine.workspace() as connection:
                workspace = prepare(connection, self.project, arrangement.placements)
                for number, leak in self._load(plan, arrangement, workspace):
                    leaks.setdefault(number, leak)
                for case in plan.cases if arrangement.judged else ():
                    self.report(self._outcome(plan, case, workspace, arrangement.name))
        seconds = time.perf_counter() - started
        for number, case in enumerate(plan.isolated()):
            self.report(_isolation_outcome(case, leaks.get(number), seconds / len(plan.cases)))

    def _load(self, plan: Plan, arrangement: Arrangement, workspace: Prepared) -> list[tuple[int, _Leak]]:
        """Append all rows. Returns the leaks that appear when other tenants' rows follow a tenant's own, each with
        the number of its test.

        Each isolated test is called for each tenant twice: as soon as the tenant's rows have arrived, and at the end.
        """
        cases = plan.isolated()
        if not cases:
            self._append(plan, workspace, [f.rows for f in plan.fixtures])
            return []
        self._append(plan, workspace, [f.rows_of(None) for f in plan.fixtures])
        early: dict[tuple[int, str], Answer] = {}
        for tenant in arrangement.order:
            self._append(plan, workspace, [f.rows_of(tenant) for f in plan.fixtures])
            if tenant != arrangement.order[-1]:
                early |= {(n, tenant): workspace.call(call_of(case), tenant) for n, case in enumerate(cases)}
        leaks = []
        for (number, tenant), alone in early.items():
            case = cases[number]
            rules = replace(_rules(plan, case, workspace.zone), unordered=True, columns=())
            if difference := compare.between(workspace.call(call_of(case), tenant), alone, rules):
                absent = arrangement.order[arrangement.order.index(tenant) + 1 :]
                leaks.append((number, _Leak(tenant, arrangement.name, _with_absent(difference, tenant, absent))))
        return leaks

    def _append(self, plan: Plan, workspace: Prepared, rows: Sequence[Sequence[FixtureRow]]) -> None:
        """Append rows of each fixture, and wait until they are delivered."""
        for one, own in zip(plan.fixtures, rows, strict=True):
            for warning in workspace.append(one, own):
                if warning not in self._warned:
                    self._warned.add(warning)
                    self.warn(warning)
        workspace.wait_for_delivery()

    def _outcome(self, plan: Plan, case: Case, workspace: Prepared, arrangement: str) -> Outcome:
        started = time.perf_counter()
        call = call_of(case)
        answer = workspace.call(call, case.tenant)
        failure, updated = _judged(plan, case, answer, workspace.zone)
        return Outcome(
            name=case.name,
            place=case.place,
            check="result",
            arrangement=arrangement,
            call=call,
            tenant=case.tenant,
            seconds=time.perf_counter() - started,
            failure=failure,
            updated=updated,
        )


@dataclass(frozen=True, slots=True)
class _Leak:
    """A tenant whose answer depends on other tenants' rows."""

    tenant: str
    arrangement: str
    difference: Difference


def _isolation_outcome(case: Case, leak: _Leak | None, seconds: float) -> Outcome:
    return Outcome(
        name=case.name,
        place=case.place,
        check="isolation",
        arrangement=leak.arrangement if leak else "all",
        call=call_of(case),
        tenant=leak.tenant if leak else case.tenant,
        seconds=seconds,
        failure=leak.difference if leak else None,
    )


def _with_absent(difference: Difference, tenant: str, absent: Sequence[str]) -> Difference:
    without = ", ".join(absent[:5]) + (" and others" if len(absent) > 5 else "")
    message = f"tenant {tenant}: {difference.message} if the rows of {without} are absent"
    hint = difference.hint or "`isolated: false` allows it for an endpoint that reads data that tenants share"
    return replace(difference, message=message, hint=hint)


def call_of(case: Case) -> Call:
    """The call of a test."""
    return Call(case.endpoint, case.sql, {name: parameter(value) for name, value in case.params.items()})


def _rules(plan: Plan, case: Case, zone: str) -> Rules:
    tolerance = plan.suite.tolerance if case.tolerance is None else case.tolerance
    return Rules(tolerance, zone, case.unordered, case.columns)


def _judged(plan: Plan, case: Case, answer: Answer, zone: str) -> tuple[Difference | None, bool]:
    """What is wrong with an answer, and whether the expected file was updated from it."""
    if case.expect_error is not None:
        return compare.against_error(case.expect_error, answer), False
    rules = _rules(plan, case, zone)
    if case.expect_file is None:
        return compare.against_rows(_inline_rows(case), answer, rules), False
    try:
        path = named_file(plan.folder, case.expect_file, case.place_of("expect_file"))
    except RookeryError as exc:
        return Difference(f"{exc.place}: {exc.message}", hint=exc.hint), False
    difference = partial(_file_difference, path, case, answer, rules)
    if not plan.update or answer.error is not None or path in plan.written:
        return difference(), False
    if path.exists() and difference() is None:
        return None, False
    write_rows(path, answer, case)
    plan.written.add(path)
    return None, True


def _file_difference(path: Path, case: Case, answer: Answer, rules: Rules) -> Difference | None:
    try:
        expected = expected_rows(path, case.place_of("expect_file"))
    except RookeryError as exc:
        return Difference(f"{exc.place}: {exc.message}", hint="rookery test --update writes the file from the result")
    return compare.against_rows(expected, answer, rules)


def _inline_rows(case: Case) -> list[Row]:
    rows = case.expect if isinstance(case.expect, YamlList) else []
    return [{k: cell_of_yaml(v) for k, v in row.items()} for row in rows if isinstance(row, YamlMapping)]
