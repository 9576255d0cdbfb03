"""Tables that fit the terminal: text wraps, less important columns are left out, and other values are never cut.

Nothing here prints. Widths are numbers of terminal cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

GAP = "  "
TEXT_WIDTH = 20
"""A column of text is not made narrower than this."""
WORD_WIDTH = 40
"""Words up to this width are not divided."""
TEXT_LINES = 4
"""Maximum number of lines of text in a cell. Longer text is shortened in the middle."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    name: str
    rank: int = 0
    """Columns of the highest rank are left out first, those of rank 0 never."""
    text: bool = False
    """Whether its values may be wrapped. Ids, names, numbers and times may not."""
    shorten: bool = True
    """Whether text that needs too many lines is shortened."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A table for a terminal."""

    lines: list[str]
    """The first one is the heading, unless the table became records."""
    omitted: list[str]
    """Names of the columns that were left out."""
    is_records: bool = False
    """Whether each row became a block of lines, because the columns did not fit."""


@dataclass(frozen=True, slots=True)
class _Grid:
    columns: Sequence[Column]
    cells: Sequence[Sequence[str]]
    """The rows, each with one cell per column."""
    numeric: Sequence[bool]
    """For each column, whether it is aligned right."""

    def without(self, index: int) -> _Grid:
        def rest(items: Sequence[Any]) -> list[Any]:
            return [item for i, item in enumerate(items) if i != index]

        return _Grid(rest(self.columns), [rest(row) for row in self.cells], rest(self.numeric))


def fitted(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[Column],
    width: int | None,
    cell: Callable[[Any], str],
) -> Fitted:
    """A table of at most `width` cells; None for any width. `cell` returns the text of a value.

    Only a single value, or the name of a column, can be wider: it is not cut.
    """
    values = [[row.get(c.name) for c in columns] for row in rows]
    numeric = [_is_numeric([row[i] for row in values]) for i in range(len(columns))]
    grid = _Grid(columns, [[cell(value) for value in row] for row in values], numeric)
    omitted: list[str] = []
    while (widths := _widths(grid, width)) is None:
        least = max(range(len(grid.columns)), key=lambda i: (grid.columns[i].rank, i))
        if grid.columns[least].rank == 0:
            return Fitted(_records(grid, width or 0), omitted, is_records=True)
        omitted.append(grid.columns[least].name)
        grid = grid.without(least)
    names = [c.name for c in grid.columns]
    lines = [_joined([[n] for n in names], widths, grid.numeric)]
    for row in grid.cells:
        parts = [
            _text_lines(text, w, TEXT_LINES if c.text and c.shorten and width else 0)
            for text, w, c in zip(row, widths, grid.columns, strict=True)
        ]
        lines.append(_joined(parts, widths, grid.numeric))
    return Fitted(lines, [c.name for c in columns if c.name in omitted])


def _is_numeric(values: Sequence[Any]) -> bool:
    present = [v for v in values if v is not None]
    return bool(present) and all(isinstance(v, int | float | Decimal) and not isinstance(v, bool) for v in present)


def _widths(grid: _Grid, width: int | None) -> list[int] | None:
    """The width of each column; None if they cannot fit."""
    natural = [
        max(cells_of(line) for text in (c.name, *(row[i] for row in grid.cells)) for line in text.split("\n"))
        for i, c in enumerate(grid.columns)
    ]
    room = (width or 0) - len(GAP) * (len(natural) - 1)
    if width is None or sum(natural) <= room:
        return natural
    least = [
        min(natural[i], max(TEXT_WIDTH, cells_of(c.name), _longest_word(row[i] for row in grid.cells)))
        if c.text
        else natural[i]
        for i, c in enumerate(grid.columns)
    ]
    spare = room - sum(least)
    if spare < 0:
        return None
    # The narrowest columns of text get what they need first; the others share the remaining space.
    wanting = sorted((i for i in range(len(natural)) if natural[i] > least[i]), key=lambda i: natural[i] - least[i])
    for position, i in enumerate(wanting):
        given = min(natural[i] - least[i], spare // (len(wanting) - position))
        least[i] += given
        spare -= given
    return least


def _longest_word(texts: Any) -> int:
    """The width of the longest word that is not divided."""
    return max((w for text in texts for word in text.split() if (w := cells_of(word)) <= WORD_WIDTH), default=0)


def _joined(parts: Sequence[Sequence[str]], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    """One row, which has as many lines as its tallest cell."""
    lines = []
    for number in range(max(map(len, parts))):
        texts = []
        for cell, width, right in zip(parts, widths, numeric, strict=True):
            text = cell[number] if number < len(cell) else ""
            padding = " " * (width - cells_of(text))
            texts.append(padding + text if right else text + padding)
        lines.append(GAP.join(texts).rstrip())
    return "\n".join(lines)


def _records(grid: _Grid, width: int) -> list[str]:
    """Each row as a block of lines `name  value`. Text wraps; other values are whole."""
    heading = max(cells_of(c.name) for c in grid.columns)
    room = max(width - heading - len(GAP), TEXT_WIDTH)
    lines = []
    for number, row in enumerate(grid.cells, 1):
        lines.append(f"row {number}")
        for column, text in zip(grid.columns, row, strict=True):
            first, *others = _text_lines(text, room, 0) if column.text else text.split("\n")
            name = column.name + " " * (heading - cells_of(column.name))
            lines.append(f"{name}{GAP}{first}".rstrip())
            lines += [f"{' ' * heading}{GAP}{other}" for other in others]
    return lines


def _text_lines(text: str, width: int, most: int) -> list[str]:
    """Text wrapped to a width. If it has more than `most` lines (0 for any number), its middle is left out."""
    lines = [line for part in text.split("\n") for line in wrapped(part, width)]
    if not most or len(lines) <= most:
        return lines
    one_line = " ".join(text.split("\n"))
    # Lines end between words, so fewer characters fit than the lines have room for.
    for size in range(width * most, width, -max(width // 8, 1)):
        lines = wrapped(middle_out(one_line, size), width)
        if len(lines) <= most:
            return lines
    return [middle_out(one_line, width)]


def wrapped(text: str, width: int) -> list[str]:
    """A line of text in lines of at most `width` cells, divided between words if possible."""
    if cells_of(text) <= width:
        return [text]
    lines, line = [], ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if cells_of(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        while cells_of(word) > width:
            head = _head(word, width)
            lines.append(head)
            word = word[len(head) :]
        line = word
    return [*lines, line]


def middle_out(text: str, width: int, mark: str = " ... ") -> str:
    """Text of at most `width` cells. The middle of longer text is left out."""
    if cells_of(text) <= width:
        return text
    room = max(width - len(mark), 2)
    tail = _head(text[::-1], room // 2)[::-1]
    return _head(text, room - cells_of(tail)) + mark + tail


def _head(text: str, width: int) -> str:
    """The beginning of some text: at most `width` cells, but at least one character."""
    used = 0
    for position, character in enumerate(text):
        used += cells_of(character)
        if used > width:
            return text[: max(position, 1)]
    return text


def cells_of(text: str) -> int:
    """The number of terminal cells that text takes up."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
