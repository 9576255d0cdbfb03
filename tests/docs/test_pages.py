"""Every page and text of the repository: links resolve, and no path of a developer's machine occurs."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.docs.reading import ROOT, SKIPPED_FOLDERS, anchor, headings, links, pages

TEXTS = {".md", ".py", ".yaml", ".yml", ".toml", ".txt", ".json", ".sh", ".xml", ".lock", ".sql", ".cfg", ".ini", ""}
MACHINE = re.compile(
    r"(?<![\w.:/*-])/(?:work|root|tmp/p|home/(?!rookery))(?:/|\b)|index-url|find-links|(?:pypi|npmjs|pythonhosted)\.org"
)
"""Directories of a developer's machine, and the registries that it uses."""


@pytest.mark.parametrize("page", pages(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_resolve(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    broken = []
    for link in links(text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            broken.append(link)
        elif fragment and target.suffix == ".md":
            known = {anchor(h) for h in headings(target.read_text(encoding="utf-8"))}
            if fragment not in known:
                broken.append(link)
    assert not broken


def _texts() -> list[Path]:
    """Text files that are, or could be, committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:
        paths = [p for p in ROOT.rglob("*") if not SKIPPED_FOLDERS & set(p.relative_to(ROOT).parts)]
    return [p for p in paths if p.is_file() and p.suffix in TEXTS and p != Path(__file__).resolve()]


def test_no_page_names_a_local_path_or_registry() -> None:
    named = []
    for file in _texts():
        text = file.read_text(encoding="utf-8", errors="replace")
        named += [f"{file.relative_to(ROOT)}: {m[0]}" for m in MACHINE.finditer(text)]
    assert not named


def test_error_links_lead_to_the_errors_page() -> None:
    from engine.errors import PUBLISHED_PAGES

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"{project['urls']['Source']}/blob/main/docs/errors.md" == PUBLISHED_PAGES
    assert (ROOT / "docs" / "errors.md").is_file()


def test_every_page_of_docs_is_linked_from_the_readme() -> None:
    linked = set(links((ROOT / "README.md").read_text(encoding="utf-8")))
    assert {f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")} <= linked
