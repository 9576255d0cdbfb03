"""The code, tables and settings that `docs/ARCHITECTURE.md` names exist."""

from __future__ import annotations

import importlib
import re

import pytest

from engine.compiler import storage
from engine.compiler.scope import BARRIER
from engine.warehouse.registry import STATE_TABLE
from tests.docs.reading import ROOT

TEXT = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`((?:\w+/)?\w+\.[A-Za-z_]+(?:\.\w+)*)`", TEXT)
FUNCTIONS = sorted(
    {n for n in NAMED if re.match(r"\w+/|schema\.|tokens\.", n) and not n.endswith((".py", ".txt", ".md"))}
)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_named_function_exists(name: str) -> None:
    module, *attributes = name.split(".")
    value: object = importlib.import_module("engine." + module.replace("/", "."))
    for attribute in attributes:
        value = getattr(value, attribute)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:engine|cli|tests|deploy)/[\w./]*)`", TEXT))))
def test_a_named_file_exists(path: str) -> None:
    assert (ROOT / path).exists()


def test_every_package_has_its_row() -> None:
    parts = {f"engine/{p.name}/" for p in (ROOT / "engine").iterdir() if (p / "__init__.py").exists()}
    parts |= {f"engine/{p.name}" for p in (ROOT / "engine").glob("*.py") if p.stem != "__init__"}
    assert {p for p in parts if f"| `{p}` |" not in TEXT} == set()


def test_the_layers_are_those_of_the_linter() -> None:
    configured = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("layers = [")[2].partition("]")[0]
    assert "\n".join(re.findall(r'"([^"]+)"', configured)) in TEXT


def test_the_layout_of_landing_tables() -> None:
    section = TEXT.partition("### Landing tables")[2].partition("### ")[0]
    for key, value in storage.LOG_SETTINGS:
        assert key in section
        assert value == "1" or f"{key} = {value}" in section
    for column in storage.HIDDEN_COLUMNS:
        assert f"`{column.name}`" in section
    assert f"non_replicated_deduplication_window = {storage.LANDING_DEDUP_WINDOW}" in section
    assert f"window of {storage.NEST_DEDUP_WINDOW} parts" in TEXT.replace("\n", " ")


def test_state_tables_are_named() -> None:
    for name in (STATE_TABLE, storage.POOL_TABLE, str(BARRIER)):
        assert name in TEXT
