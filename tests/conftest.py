"""Shared by all tests: the marker that ties a test to a numbered requirement, and its report."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent

REQUIREMENTS = (
    [f"A{n}" for n in range(1, 12)]
    + [f"B{n}" for n in range(1, 20)]
    + [f"C{n}" for n in range(1, 19)]
    + [f"D{n}" for n in range(1, 19)]
    + [f"E{n}" for n in range(1, 5)]
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--proofs", action="store_true", help="run only proving tests; print requirement, tests, result")
    parser.addoption("--fast", action="store_true", help="leave out the files that tests/slow.txt names")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --fast, files that take long are not even imported."""
    return True if config.getoption("--fast") and collection_path in slow_files() else None


@cache
def slow_files() -> frozenset[Path]:
    lines = (HERE / "slow.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(HERE.parent / line for line in lines if line and not line.startswith("#"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # The long files first, so that no worker begins one when the other has nothing left.
    items.sort(key=lambda item: item.path not in slow_files())
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
