"""The report of `make proofs`: each numbered requirement, the tests that prove it, their tier and their result."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[2]
Outcome = Literal["passed", "failed", "error", "skipped"]
NEEDS_A_SERVER = "not run: needs a server"
"""How the reason begins for which a test is skipped that needs a ClickHouse server."""


@cache
def requirements() -> dict[str, str]:
    """The numbered requirements with their first sentence, in the order of `docs/REQUIREMENTS.md`."""
    text = (ROOT / "docs" / "REQUIREMENTS.md").read_text(encoding="utf-8")
    entries = re.findall(r"^- \*\*([A-E][0-9]{1,2})\*\* (.*?)(?=^- |^#|\Z)", text, re.MULTILINE | re.DOTALL)
    return {number: " ".join(sentence.split()).partition(". ")[0].rstrip(".") for number, sentence in entries}


@dataclass(slots=True)
class Proof:
    """A test that proves a requirement. `reasons` say why it was skipped."""

    test: str
    tier: str
    outcomes: set[Outcome] = field(default_factory=set)
    reasons: set[str] = field(default_factory=set)

    @property
    def verdict(self) -> str:
        """`proven` only if some case of the test passed and none failed."""
        if self.outcomes & {"failed", "error"}:
            return "FAILED"
        if "passed" in self.outcomes:
            return "proven"
        return NEEDS_A_SERVER if any(r.startswith(NEEDS_A_SERVER) for r in self.reasons) else "skipped"


def tier_of(test: str, slow: Iterable[str], soak: bool = False) -> str:
    """`fast`, `full` or `soak`: the first of `make test-fast`, `make test` and `make soak` that runs a test in full."""
    if soak:
        return "soak"
    return "full" if test.split("::")[0] in slow else "fast"


def report(proofs: Mapping[str, Iterable[Proof]]) -> Iterator[str]:
    """Lines of the report. `proofs` are by requirement."""
    for number, sentence in requirements().items():
        yield f"{number:4} {sentence}"
        response = sorted(proofs.get(number, ()), key=lambda p: p.test)
        if not response:
            yield "     not yet proven"
        for proof in response:
            yield f"     {proof.verdict:8} {proof.tier:5} {proof.test}"
