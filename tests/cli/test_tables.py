"""Tables at every width: nothing is wider than the terminal, and no id or number is cut."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cli.tables import Column, cells_of, fitted, middle_out, wrapped

WORDS = st.text(st.sampled_from("abc xyz–日本é"), max_size=90)
IDS = st.from_regex(r"[a-z0-9-]{1,36}", fullmatch=True)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "id": IDS,
            "rows": st.integers(0, 10**12),
            "note": WORDS,
            "at": st.just("2026-11-30T00:02:14"),
            "text": WORDS,
        }
    ),
    min_size=1,
    max_size=6,
)
COLUMNS = [
    Column("id"),
    Column("rows", 1),
    Column("note", 2, text=True),
    Column("at", 4),
    Column("text", 3, text=True),
]


@given(ROWS, st.integers(50, 160))
@settings(max_examples=300, deadline=None)
def test_a_table_fits_and_keeps_ids_and_numbers(rows: list[dict[str, Any]], width: int) -> None:
    table = fitted(rows, COLUMNS, width, str)
    assert all(cells_of(line) <= width for text in table.lines for line in text.split("\n"))
    printed = "\n".join(table.lines)
    assert not table.is_records
    for row in rows:
        assert re.search(rf"(^|\s){re.escape(row['id'])}(\s|$)", printed)
        if "rows" not in table.omitted:
            assert re.search(rf"\s{row['rows']}(\s|$)", printed)
    heading = table.lines[0].split()
    assert heading == [c.name for c in COLUMNS if c.name not in table.omitted]
    ranks = {c.name: c.rank for c in COLUMNS}
    kept = [ranks[name] for name in heading]
    assert all(ranks[name] >= max(kept, default=0) for name in table.omitted)


@given(ROWS, st.integers(20, 160))
@settings(max_examples=200, deadline=None)
def test_results_lose_nothing(rows: list[dict[str, Any]], width: int) -> None:
    """Columns without a rank: every row becomes a block if they do not fit."""
    columns = [Column(c.name, text=c.text, shorten=False) for c in COLUMNS]
    table = fitted(rows, columns, width, str)
    assert not table.omitted
    printed = "\n".join(table.lines)
    for row in rows:
        assert row["id"] in printed and str(row["rows"]) in printed
    if not table.is_records:
        assert all(cells_of(line) <= width for text in table.lines for line in text.split("\n"))
    letters = sorted("".join(printed.split()))
    for row in rows:
        for letter in set(row["note"].replace(" ", "")):
            assert letters.count(letter) >= row["note"].count(letter)


@given(ROWS)
@settings(deadline=None)
def test_any_width_has_one_line_for_each_row(rows: list[dict[str, Any]]) -> None:
    table = fitted(rows, COLUMNS, None, str)
    assert (len(table.lines), table.omitted) == (len(rows) + 1, [])
    assert all("\n" not in line for line in table.lines)


@given(WORDS, st.integers(2, 60))
def test_wrapped_lines_keep_every_word(text: str, width: int) -> None:
    lines = wrapped(text, width)
    assert all(cells_of(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


@given(WORDS, st.integers(10, 60))
def test_a_shortened_text_keeps_both_ends(text: str, width: int) -> None:
    short = middle_out(text, width)
    assert cells_of(short) <= width
    if short != text:
        begin, end = short.split(" ... ", 1) if short.count(" ... ") == 1 else (short[:1], short[-1:])
        assert text.startswith(begin) and text.endswith(end)


def test_columns_are_left_out_by_rank() -> None:
    row = {"id": "i" * 36, "rows": 605_132, "note": "n" * 30, "at": "2026-11-30T00:02:14", "text": "t" * 30}
    omitted = [fitted([row], COLUMNS, width, str).omitted for width in (200, 110, 90, 60, 46)]
    assert omitted == [[], ["at"], ["at", "text"], ["note", "at", "text"], ["note", "at", "text"]]


def test_a_long_text_is_shortened_in_the_middle() -> None:
    row = {"id": "1", "error": "begin " + "middle " * 100 + "end"}
    lines = fitted([row], [Column("id"), Column("error", 1, text=True)], 60, str).lines[1].split("\n")
    assert len(lines) <= 4
    assert "begin" in lines[0] and lines[-1].endswith("end") and any("..." in line for line in lines)


def test_numbers_are_aligned_right_and_other_values_left() -> None:
    rows = [{"n": 1, "b": True, "x": None}, {"n": None, "b": False, "x": None}, {"n": 1000, "b": None, "x": None}]
    lines = fitted(rows, [Column("n"), Column("b"), Column("x")], 80, str).lines
    assert lines == ["   n  b      x", "   1  True   None", "None  False  None", "1000  None   None"]
