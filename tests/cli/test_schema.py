"""`rookery schema` writes the schemas that the package has, and says how to use them."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from tests.cli.commands import Cli


def test_the_schemas_are_those_of_the_package(tmp_path: Path) -> None:
    done = Cli(tmp_path)("schema", "--json")
    for path, patterns in done.json["yaml.schemas"].items():
        written = tmp_path / path
        assert written.read_bytes() == (files("engine.project") / written.name).read_bytes()
        assert patterns
    names = {p.name for p in (tmp_path / "schemas").iterdir()}
    assert names == {p.name for p in Path(str(files("engine.project"))).glob("*.schema.json")}


def test_a_file_in_the_way_is_kept(tmp_path: Path) -> None:
    (tmp_path / "schemas").write_text("mine")
    assert Cli(tmp_path)("schema", "--json", code=4).json["code"] == "RK7021"
    assert (tmp_path / "schemas").read_text() == "mine"
