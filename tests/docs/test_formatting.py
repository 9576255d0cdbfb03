"""The Markdown of every page: code is fenced, and no text is there twice, as after a merge that kept both sides."""

from __future__ import annotations

import re

import pytest

from tests.docs.reading import ROOT, SKIPPED_FOLDERS, prose

PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in ROOT.rglob("*.md")
    if not SKIPPED_FOLDERS & set(path.relative_to(ROOT).parts)
)
SIMILAR = 0.7
"""Share of their words, of four letters or more, from which two entries of a page count as the same text."""

_ITEM = re.compile(r" *(?:[-*]|\d+\.) ")
_WORD = re.compile(r"\w{4,}")


def paragraphs(text: str) -> list[str]:
    """Paragraphs and list items of a page, without headings and tables."""
    texts: list[str] = []
    starts = True
    for line in prose(text).splitlines():
        if not line.strip() or line.startswith(("#", "|")):
            starts = True
        elif starts or _ITEM.match(line):
            texts.append(line)
            starts = False
        else:
            texts[-1] += f" {line.strip()}"
    return texts


@pytest.mark.parametrize("page", PAGES)
def test_code_is_fenced(page: str) -> None:
    """A tool that wraps lines joins those of an indented block into prose."""
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [line for line in prose(text).splitlines() if re.match(r" {4,}\S", line) and not _ITEM.match(line)] == []


@pytest.mark.parametrize("page", PAGES)
def test_no_text_is_repeated(page: str) -> None:
    words = [
        (text, set(_WORD.findall(text.lower()))) for text in paragraphs((ROOT / page).read_text(encoding="utf-8"))
    ]
    long = [(text, distinct) for text, distinct in words if len(distinct) >= 8]
    twice = [
        (first, second)
        for number, (first, left) in enumerate(long)
        for second, right in long[number + 1 :]
        if len(left & right) > SIMILAR * max(len(left), len(right))
    ]
    assert twice == []
