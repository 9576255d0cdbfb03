"""The deployment's files fit together. No container is started here."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.compiler.storage import POOL_TABLE, RECEIPTS_TABLE
from engine.fanout.offsets import JOURNAL_TABLE
from engine.settings import Settings
from engine.warehouse.directory import CONFIG_TEXT
from engine.warehouse.registry import STATE_TABLE

ROOT = Path(__file__).resolve().parents[1]
CLICKHOUSE = ROOT / "deploy" / "clickhouse"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return document


@pytest.fixture(scope="module")
def users() -> ElementTree.Element:
    return ElementTree.parse(CLICKHOUSE / "users.xml").getroot()


def text(element: ElementTree.Element, path: str) -> str:
    child = element.find(path)
    assert child is not None, path
    return child.text or ""


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
    assert all(re.fullmatch(r"(GRANT|REVOKE) SELECT ON [a-z_.*]+", q) for q in grants(users, "rookery_reader"))
    assert not any("system.*" in q for q in grants(users, "rookery_reader"))


def test_the_reader_cannot_read_the_control_state(users: ElementTree.Element) -> None:
    """The signing keys are in `_rk_state`. A revoked right must come after the grant that it limits."""
    queries = grants(users, "rookery_reader")
    workspace = Settings.model_fields["workspace"].default
    granted = queries.index(f"GRANT SELECT ON {workspace}*.*")
    for table in (STATE_TABLE, RECEIPTS_TABLE, JOURNAL_TABLE, POOL_TABLE):
        assert queries.index(f"REVOKE SELECT ON {workspace}.{table}") > granted
    for database in ("stage", "scratch", "restore", "backup"):
        assert queries.index(f"REVOKE SELECT ON {workspace}_{database}.*") > granted


def test_the_writer_owns_the_workspace_and_nothing_else(users: ElementTree.Element) -> None:
    workspace = Settings.model_fields["workspace"].default
    for query in grants(users, "rookery_writer"):
        scope = query.rpartition(" ON ")[2]
        assert scope == f"{workspace}*.*" or query in {"GRANT SELECT ON system.*", "GRANT TABLE ENGINE ON *"}


def test_mounted_and_copied_files_exist(compose: dict[str, Any]) -> None:
    for volume in compose["services"]["clickhouse"]["volumes"]:
        source = volume.partition(":")[0]
        assert source in compose["volumes"] or (ROOT / source).is_file()


def test_backups_are_allowed_on_a_disk_with_a_volume(compose: dict[str, Any]) -> None:
    config = ElementTree.parse(CLICKHOUSE / "config.xml").getroot()
    disk = text(config, "backups/allowed_disk")
    path = text(config, f"storage_configuration/disks/{disk}/path")
    mounted = [v.split(":")[1] for v in compose["services"]["clickhouse"]["volumes"]]
    assert path.rstrip("/") in mounted


def dockerfile(compose: dict[str, Any]) -> list[str]:
    """The instructions of the image, each on one line."""
    build = compose["services"]["rookery"]["build"]
    text = (ROOT / build["context"] / build["dockerfile"]).read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_the_image_has_the_tested_versions_and_what_the_context_contains(compose: dict[str, Any]) -> None:
    lines = dockerfile(compose)
    sources = [s for line in lines if line.startswith("COPY ") and "--from" not in line for s in line.split()[1:-1]]
    ignored, *allowed = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("#", "")
    ]
    assert ignored == "*", "only listed files are in the context"
    assert sorted(sources) == sorted(line[1:] for line in allowed if line.startswith("!"))
    assert all((ROOT / source).exists() for source in sources)
    installs = [line for line in lines if "pip install" in line]
    assert any("--requirement requirements.lock" in line for line in installs)
    assert all("--no-deps" in line for line in installs), "nothing is resolved while the image is built"


def test_the_image_runs_without_rights(compose: dict[str, Any]) -> None:
    lines = dockerfile(compose)
    assert [line for line in lines if line.startswith("USER ")] == ["USER rookery"]
    assert not any(line.startswith(("ADD ", "RUN curl", "RUN wget")) for line in lines)
    assert all(re.fullmatch(r"FROM python:3\.11-slim-bookworm( AS build)?", x) for x in lines if x.startswith("FROM"))
    (health,) = [line for line in lines if line.startswith("HEALTHCHECK")]
    assert "/ready" in health
    service = compose["services"]["rookery"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    # Everything that is written must be in a volume or a temporary file system.
    mounts = [v.partition(":")[2] for v in service["volumes"]]
    (data,) = re.findall(r"ROOKERY_DATA=(\S+)", " ".join(lines))
    assert any(data.startswith(mount + "/") for mount in mounts)


def test_containers_have_limits(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["mem_limit"], name
        assert {"max-size", "max-file"} <= service["logging"]["options"].keys(), name
        assert service["restart"] == "unless-stopped", name


def test_both_engines_have_the_same_background_settings() -> None:
    own = {e.tag: e.text for e in ElementTree.fromstring(CONFIG_TEXT) if e.tag.startswith("background")}
    assert own
    server = {e.tag: e.text for e in ElementTree.parse(CLICKHOUSE / "config.xml").getroot()}
    assert own.items() <= server.items()
    assert len(own) == 4


def test_ports_are_bound_to_loopback(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", []))
