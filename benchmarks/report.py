"""The results of a benchmark, as a table, as JSON and as a chart."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import orjson
from rich.console import Console
from rich.table import Table

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

RESULTS = Path(__file__).parent / "results"
console = Console()


@dataclass
class Goal:
    """A goal, the measured value, and whether it meets the goal."""

    text: str
    measured: str
    met: bool


@dataclass
class Report:
    """The results of one benchmark."""

    name: str
    title: str
    method: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    draw: Callable[[Axes], None] | None = None

    def show(self) -> None:
        """Print the table, the goals and the notes."""
        table = Table(title=self.title, title_justify="left", title_style="bold")
        for position, column in enumerate(self.columns):
            table.add_column(column, justify="left" if position == 0 else "right")
        for row in self.rows:
            table.add_row(*(_text(v) for v in row))
        console.print()
        console.print(table)
        for goal in self.goals:
            console.print(f"[{'green]met   ' if goal.met else 'red]missed'}[/] {goal.text}: {goal.measured}")
        for note in self.notes:
            console.print(f"       {note}", style="dim")

    def save(self, *, quick: bool) -> None:
        """Write NAME.json, and NAME.png if there is a chart."""
        RESULTS.mkdir(exist_ok=True)
        body = {
            "name": self.name,
            "title": self.title,
            "method": self.method,
            "quick": quick,
            "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
            "goals": [{"goal": g.text, "measured": g.measured, "met": g.met} for g in self.goals],
            "notes": self.notes,
            "columns": list(self.columns),
            "rows": [list(r) for r in self.rows],
        }
        (RESULTS / f"{self.name}.json").write_bytes(orjson.dumps(body, option=orjson.OPT_INDENT_2))
        if self.draw is None:
            return
        figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
        self.draw(axes)
        axes.set_title(self.title, fontsize=10)
        axes.grid(visible=True, alpha=0.3)
        figure.savefig(RESULTS / f"{self.name}.png", dpi=130)
        pyplot.close(figure)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which the given share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
