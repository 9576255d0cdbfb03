"""`rookery schema` writes the schemas that the package has, and says how to use them."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from tests.cli.commands import Cli


def test_the_schemas_are_those_of_the_package(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    assert "RK7004" in cli("schema", code=1).err and not (tmp_path / "schemas").exists()
    cli("init")
    done = cli("schema", "--json")
    for path, patterns in done.json["yaml.schemas"].items():
        written = tmp_path / path
        assert written.read_bytes() == (files("engine.project") / written.name).read_bytes()
        assert patterns
    names = {p.name for p in (tmp_path / "schemas").iterdir()}
    assert names == {p.name for p in Path(str(files("engine.project"))).glob("*.schema.json")}


def test_a_file_in_the_way_is_kept(tmp_path: Path) -> None:
    Cli(tmp_path)("init")
    (tmp_path / "schemas").write_text("mine")
    assert Cli(tmp_path)("schema", "--json", code=4).json["code"] == "RK7021"
    assert (tmp_path / "schemas").read_text() == "mine"


def test_the_file_that_a_link_names_is_kept(tmp_path: Path) -> None:
    Cli(tmp_path)("init")
    (tmp_path / "schemas").mkdir()
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "schemas" / "pipe.schema.json").symlink_to(tmp_path / "mine")
    Cli(tmp_path)("schema")
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_directory_outside_the_project_is_refused(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "project")
    cli.directory.mkdir()
    cli("init")
    for outside in ("../schemas", str(tmp_path / "schemas")):
        assert "RK7002" in cli("schema", outside, code=2).err
    assert not (tmp_path / "schemas").exists()
    inside = str(cli.directory / "editor")
    assert "editor/pipe.schema.json" in cli("schema", inside, "--json").json["yaml.schemas"]
