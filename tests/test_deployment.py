"""The deployment's files fit together. No container is started here."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.settings import Settings
from engine.warehouse.directory import CONFIG_TEXT

ROOT = Path(__file__).resolve().parents[1]
CLICKHOUSE = ROOT / "deploy" / "clickhouse"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return found


@pytest.fixture(scope="module")
def users() -> ElementTree.Element:
    return ElementTree.parse(CLICKHOUSE / "users.xml").getroot()


def text(element: ElementTree.Element, path: str) -> str:
    found = element.find(path)
    assert found is not None, path
    return found.text or ""


def grants(users: ElementTree.Element, user: str) -> list[str]:
    return [q.text or "" for q in users.findall(f"users/{user}/grants/query")]


def test_every_variable_is_a_setting(compose: dict[str, Any]) -> None:
    names = {f"ROOKERY_{name.upper()}" for name in Settings.model_fields}
    assert set(compose["services"]["rookery"]["environment"]) <= names
    assert compose["services"]["rookery"]["command"] == ["rookery", "serve", "--host", "0.0.0.0"]


def test_clickhouse_and_rookery_have_the_same_users(compose: dict[str, Any], users: ElementTree.Element) -> None:
    given = compose["services"]["rookery"]["environment"]
    for prefix in ("ROOKERY_CLICKHOUSE_", "ROOKERY_CLICKHOUSE_READER_"):
        user = users.find(f"users/{given[prefix + 'USER']}")
        assert user is not None
        password = user.find("password")
        assert password is not None
        variable = password.attrib["from_env"]
        assert variable == prefix + "PASSWORD"
        assert given[variable] == compose["services"]["clickhouse"]["environment"][variable]
        assert users.find(f"profiles/{text(user, 'profile')}") is not None
        assert users.find(f"quotas/{text(user, 'quota')}") is not None
        assert text(user, "access_management") == "0"
    default = users.find("users/default")
    assert default is not None and default.attrib == {"remove": "remove"}


@pytest.mark.proves("D12")
def test_the_reader_can_only_read(users: ElementTree.Element) -> None:
    profile = users.find("profiles/rookery_reader")
    assert profile is not None
    assert text(profile, "readonly") == "2"
    assert profile.find("constraints/readonly/const") is not None
    assert all(re.fullmatch(r"GRANT SELECT ON [a-z_.*]+", q) for q in grants(users, "rookery_reader"))
    assert not any("system.*" in q for q in grants(users, "rookery_reader"))


def test_the_writer_owns_the_workspace_and_nothing_else(users: ElementTree.Element) -> None:
    workspace = Settings.model_fields["workspace"].default
    for query in grants(users, "rookery_writer"):
        scope = query.rpartition(" ON ")[2]
        assert scope == f"{workspace}*.*" or query in {"GRANT SELECT ON system.*", "GRANT TABLE ENGINE ON *"}


def test_mounted_and_copied_files_exist(compose: dict[str, Any]) -> None:
    for volume in compose["services"]["clickhouse"]["volumes"]:
        source = volume.partition(":")[0]
        assert source in compose["volumes"] or (ROOT / source).is_file()
    build = compose["services"]["rookery"]["build"]
    dockerfile = (ROOT / build["context"] / build["dockerfile"]).read_text()
    for line in re.findall(r"^COPY (.*) \S+$", dockerfile, re.MULTILINE):
        assert line.split()
    assert re.search(r"^USER rookery$", dockerfile, re.MULTILINE)


def test_both_engines_have_the_same_background_settings() -> None:
    own = {e.tag: e.text for e in ElementTree.fromstring(CONFIG_TEXT) if e.tag.startswith("background")}
    assert own
    server = {e.tag: e.text for e in ElementTree.parse(CLICKHOUSE / "config.xml").getroot()}
    assert own.items() <= server.items()
    assert len(own) == 4


def test_ports_are_bound_to_loopback(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", []))
