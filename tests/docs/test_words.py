"""Plain English: idioms that were carried over from another language stay out of code, messages and docs."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.reading import ROOT

IDIOMS = {
    r"\b(?:is|are|was|were|be|been|being|it|them) told\b|\btold (?:by|from|of|apart|that|what|which)\b": "say who reports what",
    r"\btells? (?:of|them apart|itself)\b": "`reports`, `distinguishes`",
    r"(?<!--)\bmend(?:s|ed|ing)?\b": "`fix`, `correct`, `repair`",
    r"\b(?:goes|go|went|going) on\b": "`continues`, `happens`",
    r"\bwhoever\b": "name the person or the thread",
    r"\bnobody\b|\bnobody's\b": "`no one`, `nothing`, or name who it is",
    r"\banew\b": "`again`",
    r"\bat length\b": "`in full`",
    r"\bin vain\b": "`without effect`",
    r"\bthat are none\b|\bwhich are none\b|\bwhat is none\b": "`that is not a …`",
    r"\bhangs? on (?:it|them|a|the)\b": "`depends on`",
    r"\bin one go\b": "`at once`, `in one statement`",
    r"\bwithout a word\b": "`silently`",
    r"\bso many (?:seconds|bytes|rows|times|characters|digits)\b": "name the quantity",
    r"\bis not said\b|\bsays nothing of\b": "`is not specified`",
    r"\bstands? (?:where|there)\b": "`is`, `points to`",
    r"\bknows? no longer\b": "`forgets`",
    r"\bany ?more\b": "`no longer`",
    r"\bonce more\b": "`again`",
    r"\balike\b": "`in the same way`, `equal`",
    r"\b(?:kill|crash|failure|restart) in between\b": "`at this point`, or name the two steps",
    r"\bclosed lists?\b": "`allow-list`",
    r"\bkept connections?\b": "`persistent connection`",
    r"\bat the worst\b": "`in the worst case`",
    r"\btyping errors?\b": "`typo`",
    r"\bevident(?:ly)?\b": "say who can prove it",
    r"\bfrom (?:\d+|the next) \w+(?: \w+)? on\b": "`once there are …`, `only for new …`",
    r"\bhalf[- ]done\b": "`half complete`",
    r"\bowed? \b|\bowes\b": "`outstanding`, `not yet delivered`",
    r"\b(?:lost|lose|loses) or doubled?\b": "`duplicated`",
    r"\bput (?:views?|them|it) back\b": "`restore`",
    r"\bissues? a new text\b|\btoken's text\b": "the token itself",
    r"(?:,|\() also (?:in|inside|if|while|when|for|after|those|under|at|as)\b": "`including`, `even`",
    r"\breasons? for which\b": "`the reason why`",
    r"\bsome (?:ten|hundred|thousand)\b": "`a few …`, `about …`",
    r"\bin line (?:\d|\{)": "`on line`",
    r"\bchanges? of (?:views?|tenants?|tables?)\b": "`change to`",
    r"\bis no part\b|\bare no part\b": "`is not part`",
    r"\bsingly\b": "`one by one`, `a single …`",
    r"\d %(?: (?:of|more|less|faster|slower)\b|[,;.)]| \|)": "`5%`",
}
PATTERN = re.compile("|".join(f"(?:{pattern})" for pattern in IDIOMS), re.IGNORECASE)
SKIPPED = ("tests/docs/test_words.py", "CHANGELOG.md")


def _files(*patterns: str) -> list[Path]:
    paths = {path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}
    return sorted(p for p in paths if str(p.relative_to(ROOT)) not in SKIPPED)


def _prose(path: Path) -> Iterator[tuple[int, str]]:
    """The comments and texts of a Python file, or the lines of any other, with their line numbers."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        # A single word is a value, such as the name of a tenant.
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and " " in token.string):
            yield token.start[0], " ".join(token.string.split())


@pytest.mark.parametrize(
    "patterns",
    [
        ("engine/**/*.py", "cli/**/*.py"),
        ("*.md", "docs/*.md", "examples/**/*.md"),
        ("tests/**/*.py", "benchmarks/*.py"),
    ],
    ids=["code", "docs", "tests"],
)
def test_no_refused_word_is_used(patterns: tuple[str, ...]) -> None:
    odd = [
        f"{path.relative_to(ROOT)}:{line}: {match.group(0)!r}"
        for path in _files(*patterns)
        for line, text in _prose(path)
        for match in PATTERN.finditer(text)
    ]
    assert odd == [], f"{len(odd)} idioms; better words are in IDIOMS:\n" + "\n".join(odd)


def test_the_patterns_find_what_they_name() -> None:
    for text in ("a sender is told why", "the others go on", "nobody reads it", "mend the cause", "made anew"):
        assert PATTERN.search(text), text
    for text in ("told you so", "an amendment", "goes online", "lengthy"):
        assert not PATTERN.search(text), text
