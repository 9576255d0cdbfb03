"""Shared by all tests: the marker that ties a test to a numbered requirement, and its report."""

from __future__ import annotations

from collections import defaultdict

import pytest

REQUIREMENTS = (
    [f"A{n}" for n in range(1, 12)]
    + [f"B{n}" for n in range(1, 20)]
    + [f"C{n}" for n in range(1, 19)]
    + [f"D{n}" for n in range(1, 19)]
    + [f"E{n}" for n in range(1, 5)]
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--proofs", action="store_true", help="run only proving tests; print requirement, tests, result")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for marker in item.iter_markers("proves"):
            unknown = set(marker.args) - set(REQUIREMENTS)
            if unknown:
                raise pytest.UsageError(f"{item.nodeid} proves unknown requirements: {sorted(unknown)}")
            item.user_properties.append(("proves", list(marker.args)))
    if config.getoption("--proofs"):
        items[:] = [i for i in items if i.get_closest_marker("proves")]


def pytest_terminal_summary(terminalreporter, exitstatus: int, config: pytest.Config) -> None:  # type: ignore[no-untyped-def]
    if not config.getoption("--proofs"):
        return
    results: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, values in getattr(report, "user_properties", ()):
                if name == "proves":
                    for requirement in values:
                        results[requirement][outcome].add(report.nodeid.split("[")[0])
    terminalreporter.section("proofs")
    for requirement in REQUIREMENTS:
        found = results.get(requirement)
        if not found:
            terminalreporter.write_line(f"{requirement:4} not yet proven")
            continue
        bad = found["failed"] | found["error"]
        verdict = "FAILED" if bad else "proven" if found["passed"] else "skipped"
        for test in sorted(bad or found["passed"] or found["skipped"]):
            terminalreporter.write_line(f"{requirement:4} {verdict:8} {test}")
