"""Undoes merges and mutations whose result is damaged, by restoring their source parts.

The engine keeps source parts for a while, and loads them instead of a missing result when the table is attached. A
damaged result is never simply dropped, because it contains rows of earlier inserts, which would not be sent again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from engine.warehouse.part_names import Part, parts_in, replaced_parts
from engine.warehouse.parts import why_damaged


def source_parts(table: Path, name: str) -> list[str]:
    """The undamaged parts from which a part was merged, if they still exist in the directory of its table."""
    part = Part.of(name)
    if part is None:
        return []
    others = parts_in(table).items()
    return sorted(n for n, other in others if part.covers(other) and why_damaged(table / n) is None)


def is_derived(table: Path, name: str) -> bool:
    """Whether a merge or a mutation produced a part, and not an insert. Inserts can also produce parts of level 1."""
    part = Part.of(name)
    if part is None:
        return False
    return part.first != part.last or part.level > 1 or part.version > 0 or bool(source_parts(table, name))


def can_be_undone(table: Path, name: str) -> bool:
    """Whether the source parts of a part still exist. The engine removes all of them at once, so two are checked."""
    part = Part.of(name)
    sources = [p for n in source_parts(table, name) if (p := Part.of(n)) is not None]
    return (
        part is not None and {part.first} <= {p.first for p in sources} and {part.last} <= {p.last for p in sources}
    )


def derived_parts(table: Path, name: str) -> list[str]:
    """The parts that were merged from a part, directly or in several steps."""
    part = Part.of(name)
    return sorted(n for n, other in parts_in(table).items() if part is not None and other.covers(part))


def damaged_merges(data: Path) -> list[Path]:
    """The directories of all damaged results whose source parts still exist."""
    return [
        table / name
        for table, parts in _tables(data)
        for name, part in parts.items()
        # Parts of level 0 come from inserts. They are most of the parts, and their files need not be read.
        if (part.level or part.version) and why_damaged(table / name) is not None and can_be_undone(table, name)
    ]


def _tables(data: Path) -> Iterator[tuple[Path, dict[str, Part]]]:
    """The directories of all tables, each with its parts by name."""
    for file in (data / "store").glob("*/*/format_version.txt"):
        table = file.parent
        yield table, parts_in(table)


def undo_damaged(data: Path) -> None:
    """Remove damaged parts whose rows also exist in other parts. No engine may have the directory open.

    These are results whose source parts still exist, and source parts of an undamaged result.
    """
    for directory in damaged_merges(data):
        shutil.rmtree(directory)
    for table, _ in _tables(data):
        remove_damaged_sources(table)


def remove_damaged_sources(table: Path) -> None:
    """Remove the damaged parts in a table's directory from which an undamaged part was made. It must be detached.

    Otherwise the engine would find them when it attaches the table, and detach them as broken.
    """
    parts = parts_in(table)
    for name in replaced_parts(parts):
        if why_damaged(table / name) is None:
            continue
        if any(why_damaged(table / n) is None for n, other in parts.items() if other.covers(parts[name])):
            shutil.rmtree(table / name)
