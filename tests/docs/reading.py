"""How the documentation tests read Markdown: fenced blocks, tables, headings and links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SKIPPED_FOLDERS = {".git", ".venv", ".rookery", "node_modules", "results", "build", "dist"}

_COMMENT = re.compile(r"<!-- *(.*?) *-->")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"#{1,6} +(.*)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line where it begins, and the comment right before it."""

    language: str
    text: str
    line: int
    note: str = ""


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    note, opened, language, body = "", 0, "", list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        if opened:
            if line.strip() == "```":
                yield Block(language, "\n".join(body) + "\n", opened, note)
                opened, note = 0, ""
            else:
                body.append(line)
        elif line.startswith("```"):
            opened, language, body = number, line.strip("`").strip(), []
        elif comment := _COMMENT.fullmatch(line.strip()):
            note = comment[1]
        elif line.strip():
            note = ""


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    kept, inside = [], False
    for line in text.splitlines():
        if line.startswith("```"):
            inside = not inside
        elif not inside:
            kept.append(line)
    return "\n".join(kept)


def headings(text: str) -> list[str]:
    """The headings of a page, without their marks."""
    return [m[1].strip() for line in prose(text).splitlines() if (m := _HEADING.match(line))]


def anchor(heading: str) -> str:
    """The anchor that a heading gets where Markdown is shown."""
    plain = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
    return plain.strip().replace(" ", "-")


def links(text: str) -> list[str]:
    """The targets of a page's links, those in code aside."""
    return _LINK.findall(re.sub(r"`[^`]*`", "", prose(text)))


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, header aside; escaped bars are text."""
    lines = text.splitlines()
    start = next(n for n, line in enumerate(lines) if (m := _HEADING.match(line)) and m[1].strip() == heading)
    table_rows: list[list[str]] = []
    for line in lines[start + 1 :]:
        if line.startswith("|"):
            cells = [c.strip().replace("\\|", "|") for c in re.split(r"(?<!\\)\|", line.strip()[1:-1])]
            table_rows.append(cells)
        elif table_rows or _HEADING.match(line):
            break
    return table_rows[2:]


def pages() -> list[Path]:
    """Every Markdown file of the repository."""
    return sorted(p for p in ROOT.rglob("*.md") if not SKIPPED_FOLDERS & set(p.relative_to(ROOT).parts))
