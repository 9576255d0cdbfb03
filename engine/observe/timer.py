"""The stages of a request."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Timer:
    """Milliseconds that each stage of a request took, for the header `Server-Timing`."""

    started: float = field(default_factory=time.perf_counter)
    stages: list[tuple[str, float]] = field(default_factory=list)

    def stage(self, name: str) -> None:
        """End a stage; the next one starts now."""
        now = time.perf_counter()
        self.stages.append((name, (now - self.started) * 1000))
        self.started = now

    def header(self) -> str:
        return ", ".join(f"{n};dur={ms:.2f}" for n, ms in self.stages)
