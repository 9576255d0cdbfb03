"""What is released: the distributions, the pinned requirements and the public workflow."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import Distribution, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.docs.reading import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NEVER_IMPORTED = ("pandas", "matplotlib", "IPython", "pytest")
"""Heavy packages that other packages require."""


def _pins(*names: str) -> dict[str, str]:
    lines = [line for name in names for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


@pytest.mark.parametrize("locks", [("requirements.lock",), ("requirements.lock", "requirements-dev.lock")], ids=len)
def test_the_pins_include_what_pinned_packages_require(locks: tuple[str, ...]) -> None:
    pins = _pins(*locks)
    missing = []
    for name in pins:
        for requirement in map(Requirement, requires(name) or ()):
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            pinned = pins.get(canonicalize_name(requirement.name))
            if applies and (pinned is None or not requirement.specifier.contains(pinned, prereleases=True)):
                missing.append(f"{name} requires {requirement}, pinned is {pinned}")
    assert missing == []


@pytest.mark.parametrize("extra", [None, "dev"])
def test_pinned_versions_are_within_the_declared_ranges(extra: str | None) -> None:
    declared = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    pins = _pins("requirements.lock", *(["requirements-dev.lock"] if extra else []))
    for requirement in map(Requirement, declared):
        if requirement.marker is None or requirement.marker.evaluate():
            pinned = pins[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(pinned), f"{requirement} is pinned to {pinned}"


def test_no_package_is_pinned_twice() -> None:
    assert not _pins("requirements.lock").keys() & _pins("requirements-dev.lock").keys()


def test_the_server_imports_no_unused_heavy_package() -> None:
    probe = f"import sys, engine.web.app, cli.app; print([m for m in {NEVER_IMPORTED!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    source = tmp_path_factory.mktemp("source") / "rookery"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    for name in filter(None, tracked):
        path = ROOT / name.decode()
        if path.is_file() and path.parts[len(ROOT.parts)] not in ("tests", "benchmarks"):
            target = source / name.decode()
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(command, capture_output=True, check=True)
    return folder


def test_the_wheel_holds_the_packages_with_their_data(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"engine/py.typed", "cli/py.typed", "engine/sql/functions.txt", "engine/project/pipe.schema.json"} <= names
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("engine/web/errors.txt") == (ROOT / "docs" / "errors.md").read_bytes()
    assert {name.split("/")[0] for name in names if not name.startswith("rookery_analytics-")} == {"engine", "cli"}
    assert list(dist.glob("*.tar.gz"))


def distribution_in(directory: Path) -> Distribution:
    (found,) = Distribution.discover(name="rookery-analytics", path=[str(directory)])
    return found


def test_the_installed_wheel_has_the_command(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    # What pip writes into `bin/rookery`.
    (entry,) = distribution_in(tmp_path).entry_points.select(group="console_scripts", name="rookery")
    script = f"from {entry.module} import {entry.attr}; {entry.attr}()"
    environment = {"PYTHONPATH": str(tmp_path), "PATH": str(tmp_path)}
    command = [sys.executable, "-c", script, "--version"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"rookery {PROJECT['version']}\n"


@pytest.mark.parametrize(
    "schema, file",
    [("vendor.github-workflows", ".github/workflows/ci.yml"), ("vendor.dependabot", ".github/dependabot.yml")],
)
def test_the_public_workflow_is_valid(schema: str, file: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(ROOT / file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_workflow_runs_every_supported_python() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    classified = [
        c.rpartition(" ")[2] for c in PROJECT["classifiers"] if c.startswith("Programming Language :: Python :: 3.")
    ]
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == classified
