"""Loading project files from a directory."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import Problems
from engine.project.parse import load, load_files

DATASOURCE = "columns: [{name: a, type: String}]\n"
PIPE = "sql: SELECT 1\n"


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def problems(root: Path, files: list[Path] | None = None) -> dict[str, str]:
    with pytest.raises(Problems) as caught:
        load(root) if files is None else load_files(root, files)
    return {str(p.place): p.code.id for p in caught.value.problems}


def test_files_are_found_in_all_folders_and_classified_by_content(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "datasources/b.yaml": DATASOURCE,
            "pipes/deep/er/a.yaml": DATASOURCE,
            "endpoints/c.yaml": PIPE,
            "datasources/d.yaml": PIPE,
            "datasources/.hidden.yaml": "[",
            "datasources/.git/x.yaml": "[",
            "datasources/readme.md": "[",
            "other/e.yaml": "[",
            "f.yaml": "[",
        },
    )
    project = load(tmp_path)
    assert list(project.datasources) == ["a", "b"]
    assert list(project.pipes) == ["c", "d"]
    assert project.datasources["a"].place.file == "pipes/deep/er/a.yaml"
    assert load(tmp_path) == project


def test_an_empty_folder_is_an_empty_project(tmp_path: Path) -> None:
    assert load(tmp_path).resources() == ()


def test_problems_of_all_files_are_reported_at_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "datasources/a.yaml": "colums: 1\n",
            "datasources/latin.yaml": b"sql: SELECT 1\n# caf\xe9\n",
            "datasources/big.yaml": b"#" * (1024 * 1024 + 1),
            "datasources/old.datasource": "SCHEMA >",
            "datasources/x.yml": PIPE,
            "datasources/y.YAML": PIPE,
            "pipes/old.pipe": "NODE",
            "pipes/empty.yaml": "",
            "pipes/1.yaml": PIPE,
            "pipes/twice.yaml": PIPE,
            "endpoints/twice.yaml": PIPE,
        },
    )
    (tmp_path / "pipes/folder.yaml").mkdir()
    assert problems(tmp_path) == {
        "datasources/a.yaml:1:1": "RK1017",
        "datasources/latin.yaml:2:6": "RK1001",
        "datasources/big.yaml": "RK1008",
        "datasources/old.datasource": "RK1008",
        "datasources/x.yml": "RK1008",
        "datasources/y.YAML": "RK1008",
        "pipes/old.pipe": "RK1008",
        "pipes/empty.yaml:1:1": "RK1001",
        "pipes/1.yaml:1:1": "RK1006",
        "pipes/folder.yaml": "RK1008",
        "endpoints/twice.yaml:1:1": "RK1007",
    }


def test_symbolic_links(tmp_path: Path) -> None:
    root = write(tmp_path / "root", {"datasources/a.yaml": DATASOURCE, "shared/b.yaml": PIPE})
    outside = write(tmp_path / "outside", {"secret.yaml": PIPE})
    folder = root / "pipes"
    folder.mkdir()
    (folder / "b.yaml").symlink_to("../shared/b.yaml")
    assert list(load(root).pipes) == ["b"]
    (folder / "broken.yaml").symlink_to("nowhere.yaml")
    (folder / "loop.yaml").symlink_to("loop.yaml")
    (folder / "secret.yaml").symlink_to(outside / "secret.yaml")
    (folder / "again").symlink_to("..")
    assert problems(root) == dict.fromkeys(
        ["pipes/again", "pipes/broken.yaml", "pipes/loop.yaml", "pipes/secret.yaml"], "RK1008"
    )


def test_a_folder_that_is_a_link_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "datasources").symlink_to(".")
    (tmp_path / "pipes").write_text("")
    assert problems(tmp_path) == {"datasources": "RK1008", "pipes": "RK1008"}


def test_a_named_pipe_does_not_block(tmp_path: Path) -> None:
    (tmp_path / "pipes").mkdir()
    os.mkfifo(tmp_path / "pipes/a.yaml")
    assert problems(tmp_path) == {"pipes/a.yaml": "RK1008"}


@pytest.mark.skipif(os.geteuid() == 0, reason="everything is readable for root")
def test_unreadable_files_are_errors(tmp_path: Path) -> None:
    write(tmp_path, {"pipes/a.yaml": PIPE})
    (tmp_path / "pipes/a.yaml").chmod(0)
    assert problems(tmp_path) == {"pipes/a.yaml": "RK1008"}


def test_a_missing_project_is_an_error(tmp_path: Path) -> None:
    assert list(problems(tmp_path / "nope").values()) == ["RK1008"]


def test_only_the_given_files_are_loaded(tmp_path: Path) -> None:
    write(tmp_path, {"datasources/a.yaml": DATASOURCE, "pipes/b.yaml": PIPE, "pipes/broken.yaml": "["})
    loaded = load_files(tmp_path, [Path("pipes/b.yaml"), tmp_path / "pipes/b.yaml", Path("pipes/../pipes/b.yaml")])
    assert (list(loaded.datasources), list(loaded.pipes)) == ([], ["b"])
    assert loaded.pipes["b"].place.file == "pipes/b.yaml"
    assert problems(tmp_path, [Path("pipes/c.yaml"), Path("pipes/b.yml")]) == {
        "pipes/c.yaml": "RK1008",
        "pipes/b.yml": "RK1008",
    }


def test_a_root_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"datasources/a.yaml": DATASOURCE})
    monkeypatch.chdir(tmp_path)
    assert load(Path()).datasources["a"].place.file == "datasources/a.yaml"
    assert load_files(Path(), [Path("datasources/a.yaml")]) == load(Path("../" + tmp_path.name))
    assert load_files(Path(), [tmp_path / "datasources/a.yaml"]).datasources["a"].name == "a"


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40) | st.binary(max_size=20).map(lambda x: b"sql: |\n  " + x))
def test_any_bytes_give_a_project_or_problems(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = write(Path(folder), {"pipes/a.yaml": content})
        try:
            assert load(root).resources()
        except Problems as found:
            assert all(p.place and p.place.file == "pipes/a.yaml" for p in found.problems)
