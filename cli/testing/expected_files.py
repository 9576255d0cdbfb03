"""Writes expected rows from results, for `rookery test --update`."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from cli.testing.model import Answer
from cli.testing.rows import CSV_NULL, format_of
from cli.testing.values import json_text
from engine.project.suite import Case


def write_rows(path: Path, answer: Answer, case: Case) -> None:
    """Write the rows of an answer as NDJSON or CSV. Raises RK1008 for another extension."""
    format = format_of(path, case.place_of("expect_file"))
    names = [c.name for c in answer.columns if not case.columns or c.name in case.columns]
    rows = [{name: row[name] for name in names} for row in answer.rows]
    text = _csv(names, rows) if format == "csv" else "".join(f"{json_text(row)}\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _csv(names: list[str], rows: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_field(row[name]) for name in names])
    return out.getvalue()


def _field(value: Any) -> str:
    if value is None:
        return CSV_NULL
    return value if isinstance(value, str) else json_text(value)
