"""The report of proofs, and the page of requirements that it is made from."""

from __future__ import annotations

import pytest

from tests.support.proofs import NEEDS_A_SERVER, Proof, report, requirements, tier_of


@pytest.mark.feature
def test_every_requirement_is_stated_once_and_in_order() -> None:
    counts = {"A": 11, "B": 19, "C": 18, "D": 19, "E": 5}
    assert list(requirements()) == [f"{area}{n}" for area, most in counts.items() for n in range(1, most + 1)]
    assert all(len(sentence) > 20 for sentence in requirements().values())


@pytest.mark.feature
def test_the_report_names_tier_and_result() -> None:
    proven = Proof("tests/a.py::test_x", "fast", {"passed", "skipped"})
    failed = Proof("tests/a.py::test_y", "full", {"passed", "failed"})
    waiting = Proof("tests/b.py::test_z", "full", {"skipped"}, {f"{NEEDS_A_SERVER}, with row policies"})
    lines = list(report({"A1": [proven, failed], "D8": [waiting]}))
    assert "     proven   fast  tests/a.py::test_x" in lines
    assert "     FAILED   full  tests/a.py::test_y" in lines
    assert any(line.strip().startswith(NEEDS_A_SERVER) for line in lines)
    assert lines[lines.index(next(x for x in lines if x.startswith("A2"))) + 1].strip() == "not yet proven"


@pytest.mark.feature
def test_tiers() -> None:
    assert tier_of("tests/a.py::x", {"tests/a.py"}) == "full"
    assert tier_of("tests/b.py::x", {"tests/a.py"}) == "fast"
    assert tier_of("tests/b.py::x", (), soak=True) == "soak"
