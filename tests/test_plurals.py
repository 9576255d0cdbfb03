"""Messages count things as people do."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from engine.plurals import counted

ROOT = Path(__file__).resolve().parents[1]
_FIXED_PLURAL = re.compile(r"\{[^{}]{1,80}\} (?:bad |more )?(?:rows|keys|tables|parts|views|steps|nests)\b")
"""A number in an f-string whose noun does not follow it. Constants, such as limits, are in capitals."""


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1234567, "1,234,567 rows")]
)
def test_a_number_and_its_noun(number: int, text: str) -> None:
    assert counted(number, "row") == text


def test_no_message_has_a_plural_for_any_number() -> None:
    files = subprocess.run(["git", "ls-files", "engine", "cli"], cwd=ROOT, capture_output=True, text=True, check=True)
    sources = [name for name in files.stdout.split() if name.endswith(".py")]
    plurals = [
        f"{name}:{number}: {line.strip()}"
        for name in sources
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1)
        for match in _FIXED_PLURAL.finditer(line)
        if not re.search(r"MAX|limit|_shown", match[0], re.IGNORECASE)
    ]
    assert len(sources) > 300
    assert plurals == []
