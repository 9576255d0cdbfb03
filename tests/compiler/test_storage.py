"""How datasources are stored."""

from __future__ import annotations

from engine.compiler.storage import quarantine_table
from engine.project.datasource import Datasource
from engine.project.parse import parse_source

TEXT = """\
columns: [{name: id, type: UInt64}, {name: insertion_date, type: Date}, {name: c__error, type: String}]
engine: {sorting_key: [id]}
"""


def test_a_quarantine_has_each_column_once() -> None:
    """If a column has the name of one of the quarantine's own, the quarantine's wins."""
    source = parse_source(TEXT, "events.yaml", "events")
    assert isinstance(source, Datasource)
    columns = {c.name: c.type for c in quarantine_table(source, "main").columns}
    assert len(columns) == len(quarantine_table(source, "main").columns)
    assert (columns["id"], columns["insertion_date"]) == ("Nullable(String)", "DateTime")
    assert columns["c__error"] == "Array(String)"
