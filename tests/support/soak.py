"""How often randomized tests repeat: a seeded sample in the suite, `SOAK` times as many in `make soak`."""

from __future__ import annotations

import os


def soak_rounds(sample: int) -> int:
    return sample * int(os.environ.get("SOAK", "1"))


def soaking() -> bool:
    """Whether this run is `make soak`, which includes the tests marked `soak_only`."""
    return "SOAK" in os.environ
