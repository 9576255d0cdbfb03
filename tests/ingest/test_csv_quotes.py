"""An open quote in a CSV file quarantines only its own row."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.ingest.batch import Append
from engine.ingest.formats.body_rows import Chunker
from engine.warehouse.port import Input
from tests.support.in_process import Rookery, open_rookery

FILE = [f"{n},name {n},{n}" for n in range(1, 41)]


@pytest.fixture(scope="module")
def rookery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with open_rookery(tmp_path_factory.mktemp("quotes")) as opened:
        columns = "{name: id, type: UInt32}, {name: name, type: String}, {name: n, type: Int64}"
        opened.push({"datasources/rows.yaml": f"columns: [{columns}]\nengine: {{sorting_key: [id]}}\n"})
        yield opened


def stored_and_quarantined(
    rookery: Rookery, lines: list[str], size: int = 1 << 20
) -> tuple[list[int], list[tuple[str, list[str], list[str]]]]:
    """Ids that are stored of a file, cut into batches of a size, and what is in quarantine."""
    cutter = Chunker("csv", size)
    batches = [*cutter.feed("\n".join(["id,name,n", *lines]).encode()), *cutter.finish()]
    for batch in batches:
        rookery.gateway.submit(Append("rows", batch, Input.CSV, is_complete=False)).result(60)
    stored = [int(id) for (id,) in rookery.rows("SELECT id FROM main.rows ORDER BY id")]
    bad = rookery.rows("SELECT c__text, c__error_column, c__error FROM main.rows_quarantine ORDER BY c__text")
    rookery.run("TRUNCATE TABLE main.rows")
    rookery.run("TRUNCATE TABLE main.rows_quarantine")
    return stored, [(str(t), list(c), list(r)) for t, c, r in bad]


@pytest.mark.parametrize("size", [100, 1 << 20])
@pytest.mark.parametrize("place", [1, 20, 40])
@pytest.mark.parametrize("later", ["", '41,"quoted ""value"",\nof two lines",41'])
def test_an_open_quote(rookery: Rookery, place: int, size: int, later: str) -> None:
    lines = [*FILE, *([later] if later else [])]
    lines[place - 1] = f'{place},"name {place},{place}'
    stored, bad = stored_and_quarantined(rookery, lines, size)
    assert stored == [n for n in range(1, 41 + bool(later)) if n != place]
    ((text, columns, (reason,)),) = bad
    assert (text, columns) == (lines[place - 1], ["name"])
    assert f'`"name {place}`' in reason and "quote" in reason


def test_two_open_quotes(rookery: Rookery) -> None:
    lines = list(FILE)
    lines[3], lines[9] = '4,"a,4', '10,"b,10'
    stored, bad = stored_and_quarantined(rookery, lines)
    assert stored == [n for n in range(1, 41) if n not in (4, 10)]
    assert [columns for _, columns, _ in bad] == [["name"], ["name"]]


def test_closed_quotes_are_valid(rookery: Rookery) -> None:
    lines = ['1,"a\nb",1', '2,"x ""y""",2', '3,5" nails,3', '4,"",4', '5,"," ,5', '6,x;"y,6', '7,"last\n"']
    stored, bad = stored_and_quarantined(rookery, lines[:6])
    assert (stored, bad) == ([1, 2, 3, 4, 5, 6], [])
    stored, bad = stored_and_quarantined(rookery, lines)
    assert stored == [1, 2, 3, 4, 5, 6]
    ((text, columns, (reason,)),) = bad
    assert (text, columns) == (lines[6], [""])
    assert "2 fields" in reason and "header" in reason
