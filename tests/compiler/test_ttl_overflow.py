"""A TTL that ends beyond the range of its type gets a warning: the engine would remove today's rows."""

from __future__ import annotations

from engine.workspace.workspace import Workspace
from tests.support.compiling import compiled

FILE = """columns:
  - {{name: id, type: UInt32}}
  - {{name: s, type: "DateTime('America/New_York')"}}
  - {{name: m, type: DateTime64(3)}}
  - {{name: d, type: Date}}
engine:
  sorting_key: id
  ttl: {ttl}
"""
PIPE = """sql: SELECT 1::UInt32 AS id, now64(3) AS m FROM {source}
materialize:
  target: made
  engine: {{sorting_key: id, ttl: {ttl}}}
"""
TOO_LONG = (
    "toDateTime(m) + INTERVAL 100 YEAR",
    "toStartOfDay(s) + INTERVAL 100 YEAR",
    "addYears(toDateTime(m), 100)",
    "toDate(m) + INTERVAL 130 YEAR",
    "toMonday(d) + toIntervalDay(46000)",
    "m + INTERVAL 300 YEAR",
)
FINE = (
    "toDate32(m) + INTERVAL 100 YEAR",
    "toDateTime(m) + INTERVAL 70 YEAR",
    "toDate(m) + INTERVAL 100 YEAR",
    "s + INTERVAL 400 DAY",
    "d - INTERVAL 100 YEAR",
    "s + toIntervalDay(id)",
)


def warned(workspace: Workspace, files: dict[str, str]) -> list[tuple[str, str, int]]:
    warnings = compiled(workspace, files).warnings
    return [(w.code.id, str(w.place.file), int(w.place.line or 0)) for w in warnings if w.place]


def test_ttls_beyond_the_range_of_their_type_get_a_warning(workspace: Workspace) -> None:
    files = {f"long_{n}": FILE.format(ttl=ttl) for n, ttl in enumerate(TOO_LONG)}
    files |= {f"fine_{n}": FILE.format(ttl=ttl) for n, ttl in enumerate(FINE)}
    assert sorted(warned(workspace, files)) == [("RK2023", f"long_{n}.yaml", 8) for n in range(len(TOO_LONG))]


def test_the_engine_of_a_target_without_a_file(workspace: Workspace) -> None:
    files = {"fine": FILE.format(ttl=FINE[0]), "fill": PIPE.format(source="fine", ttl=TOO_LONG[0])}
    assert warned(workspace, files) == [("RK2023", "fill.yaml", 4)]
