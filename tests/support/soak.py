"""How often randomized tests repeat: a seeded sample in the suite, `SOAK` times as many in `make soak`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def soak_rounds(sample: int) -> int:
    return sample * int(os.environ.get("SOAK", "1"))


def soaking() -> bool:
    """Whether this run is `make soak`, which includes the tests marked `soak_only`."""
    return "SOAK" in os.environ


def paired(values: Iterable[Any], others: Sequence[Any]) -> Sequence[Any]:
    """Parameters of a test: every value with one of the others, which take turns; further pairs are `soak_only`."""
    return [
        pytest.param(value, others[(n + turn) % len(others)], marks=[pytest.mark.soak_only] if turn else [])
        for n, value in enumerate(values)
        for turn in range(len(others))
    ]


def sampled(values: Iterable[Any], step: int) -> Sequence[Any]:
    """Parameters of a test: each `step`-th one as it is, beginning with the first, and the others `soak_only`."""
    return [
        pytest.param(*(v if isinstance(v, tuple) else (v,)), marks=[pytest.mark.soak_only] if n % step else [])
        for n, v in enumerate(values)
    ]
