"""Shared by all tests: the marker that ties a test to a numbered requirement, and its report."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.memory import keep_files_in_memory
from tests.support.proofs import Proof, report, requirements, tier_of
from tests.support.soak import soaking

HERE = Path(__file__).parent
configuration: tempfile.TemporaryDirectory[str] | None = None
"""What `rookery auth` writes outside of projects. It is removed when the process ends."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--proofs", action="store_true", help="run only proving tests; print requirement, tests, result")
    parser.addoption("--fast", action="store_true", help="leave out the files that tests/slow.txt names")


def pytest_configure() -> None:
    global configuration
    keep_files_in_memory()
    configuration = tempfile.TemporaryDirectory()
    os.environ["XDG_CONFIG_HOME"] = configuration.name
    # Thousands of tests are millions of objects. Searching them for garbage again and again takes a tenth of the time.
    gc.set_threshold(100_000)
    # A shell's background jobs ignore SIGINT, and those of `nohup` ignore SIGHUP. The commands that the tests
    # interrupt would inherit that.
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --fast, files that take long are not even imported."""
    return True if config.getoption("--fast") and collection_path in slow_files() else None


@cache
def slow_files() -> frozenset[Path]:
    return frozenset(HERE.parent / name for name in slow_names())


@cache
def slow_names() -> frozenset[str]:
    """Files that `make test-fast` leaves out, relative to the project."""
    lines = (HERE / "slow.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not soaking():
        config.hook.pytest_deselected(items=[i for i in items if i.get_closest_marker("soak_only")])
        items[:] = [i for i in items if not i.get_closest_marker("soak_only")]
    # The long files first, so that no worker begins one when the other has nothing left.
    items.sort(key=lambda item: item.path not in slow_files())
    for item in items:
        for marker in item.iter_markers("proves"):
            unknown = set(marker.args) - requirements().keys()
            if unknown:
                raise pytest.UsageError(f"{item.nodeid} proves unknown requirements: {sorted(unknown)}")
            tier = tier_of(item.nodeid, slow_names(), any(map(item.get_closest_marker, ("soak", "soak_only"))))
            item.user_properties.append(("proves", [list(marker.args), tier]))
    if config.getoption("--proofs"):
        items[:] = [i for i in items if i.get_closest_marker("proves")]


def pytest_collection_finish() -> None:
    gc.freeze()


def pytest_terminal_summary(terminalreporter, exitstatus: int, config: pytest.Config) -> None:  # type: ignore[no-untyped-def]
    if not config.getoption("--proofs"):
        return
    terminalreporter.section("proofs")
    for line in report(_proofs(terminalreporter.stats)):
        terminalreporter.write_line(line)


def _proofs(stats: Mapping[str, Sequence[Any]]) -> dict[str, list[Proof]]:
    """Proofs by requirement, from the results of a run."""
    proofs: dict[tuple[str, str], Proof] = {}
    for outcome in ("passed", "failed", "error", "skipped"):
        for result in stats.get(outcome, []):
            test = result.nodeid.split("[")[0]
            for numbers, tier in (
                value for name, value in getattr(result, "user_properties", ()) if name == "proves"
            ):
                for number in numbers:
                    proof = proofs.setdefault((number, test), Proof(test, tier))
                    proof.outcomes.add(outcome)  # type: ignore[arg-type]
                    if outcome == "skipped" and isinstance(result.longrepr, tuple):
                        proof.reasons.add(str(result.longrepr[2]).removeprefix("Skipped: "))
    by_requirement: dict[str, list[Proof]] = defaultdict(list)
    for (number, _), proof in proofs.items():
        by_requirement[number].append(proof)
    return by_requirement
