"""`docs/errors.md` has every error code, and every error code is raised somewhere."""

from __future__ import annotations

import ast
import re

import pytest

from engine import errors
from tests.docs.reading import ROOT, blocks

TEXT = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
SECTIONS = {m[1]: m[2] for m in re.finditer(r"^### (RK\d{4})\n\n(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL)}


def test_documented_codes_equal_the_existing_ones() -> None:
    assert sorted(SECTIONS) == sorted(errors.codes())
    assert list(SECTIONS) == sorted(SECTIONS), "in order"


@pytest.mark.parametrize("code", errors.codes().values(), ids=lambda c: c.id)
def test_every_code_is_explained(code: errors.Code) -> None:
    section = SECTIONS[code.id]
    assert section.startswith(f"`{code.status}` {code.title}."), "status and title, as in engine/errors.py"
    assert section.count(f"`{code.status}` {code.title}.") == 1, "explained once"
    why, do, rest = section.partition("**Do:**")
    assert len(why) > len(f"`{code.status}` {code.title}. ") + 10, "why it happens"
    assert do, "what to do about it"
    advice, _, example = rest.partition("**Example:**")
    assert len(advice.strip()) > 5
    (block,) = blocks(example)
    assert block.text.strip(), "an example that has the error"


def test_every_code_is_produced_by_a_test() -> None:
    names = {value.id: name for name, value in vars(errors).items() if isinstance(value, errors.Code)}
    folder = ROOT / "tests"
    texts = [p.read_text(encoding="utf-8") for p in folder.rglob("*.py") if p.parent != folder / "docs"]
    words = {word for text in texts for word in re.findall(r"\w+", text)}
    assert {id for id, name in names.items() if id not in words and name not in words} == set()


def test_every_code_is_raised() -> None:
    """A code that occurs only in comparisons or sets is never raised."""
    names = {id: name for name, value in vars(errors).items() if isinstance(value, errors.Code) for id in [value.id]}
    used: set[str] = set()
    for part in ("engine", "cli"):
        for file in (ROOT / part).rglob("*.py"):
            if file != ROOT / "engine" / "errors.py":
                used |= _given(ast.parse(file.read_text(encoding="utf-8")))
    assert {id for id, name in names.items() if name not in used} == set()


def _given(tree: ast.AST) -> set[str]:
    """Names and attributes that are used outside comparisons and set literals, of what is imported from errors."""
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "engine.errors"
        for alias in node.names
    }
    given_codes: set[str] = set()
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Compare | ast.Set):
            continue
        if isinstance(node, ast.Name) and node.id in imported:
            given_codes.add(node.id)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "errors":
            given_codes.add(node.attr)
        pending.extend(ast.iter_child_nodes(node))
    return given_codes
