"""The checks of `doctor` one at a time, and damage that they find."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from engine.control.doctor import examination
from engine.control.doctor.findings import Finding
from tests.control.conftest import Billing


def found(billing: Billing, check: str, *, deep: bool = False) -> list[Finding]:
    """Findings of a check. Of those that read rows, only this one runs."""
    if deep:
        return list(examination.DEEP[check](examination.context_of(billing.workspace)))
    return [f for f in examination.examine(billing.workspace).findings if f.check == check]


def one(billing: Billing, check: str, *, deep: bool = False) -> Finding:
    (finding,) = found(billing, check, deep=deep)
    return finding


def assert_healthy(billing: Billing, *, deep: bool = False) -> None:
    """Nothing is found. The last test reads all rows, so that none of the others has left a difference behind."""
    assert examination.examine(billing.workspace, deep=deep).findings == ()


@contextmanager
def broken(billing: Billing, harm: str, remedy: str) -> Iterator[None]:
    """Run a statement that damages the workspace; the damage is repaired afterwards."""
    billing.execute(harm)
    try:
        yield
    finally:
        billing.execute(remedy)
    assert_healthy(billing)
