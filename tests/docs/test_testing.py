"""docs/testing.md: its tables list every key, and its examples pass against the example project."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine.project.suite import Case, Suite
from engine.project.validation_errors import known_keys
from tests.cli.commands import Cli
from tests.docs.reading import ROOT, blocks

pytestmark = pytest.mark.feature
PAGE = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^##+ ([^\n]+)\n(.*?)(?=^##+ |\Z)", PAGE, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize(("model", "title"), [(Suite, "The file"), (Case, "Tests")], ids=["file", "test"])
def test_every_key_is_documented(model: type[Suite] | type[Case], title: str) -> None:
    assert re.findall(r"^\| `([a-z_]+)` \|", SECTIONS[title], re.MULTILINE) == known_keys(model)


def test_the_examples_pass(tmp_path: Path) -> None:
    examples = [b.text for b in blocks(PAGE) if b.language == "yaml" and "tests:" in b.text]
    assert len(examples) == 2
    cli = Cli(tmp_path)
    files = {str(p.relative_to(ROOT)): p.read_text() for f in ("pipes", "datasources") for p in (ROOT / f).glob("*")}
    cli.write({**files, **{f"tests/example{n}.yaml": text for n, text in enumerate(examples)}})
    shown = next(b.text for b in blocks(PAGE) if b.text.startswith("$ rookery test"))
    out = cli("test").out
    for line in shown.splitlines()[2:-1]:
        assert line in out
    assert "3 tests passed" in out
