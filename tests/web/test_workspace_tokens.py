"""Tokens of one workspace: its admin token, its keys, and its removed tenants."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import Server, running
from tests.web.project import fill
from tests.web.responses import data, refused
from tests.web.signing import PATH, signed


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose keys and tenants these tests may change, with an admin token from the environment."""
    path: Path = tmp_path_factory.mktemp("keys")
    with running(path, ROOKERY_ADMIN_TOKEN="chosen by the operator", ROOKERY_WORKSPACE="other") as server:
        fill(server)
        yield server


def test_the_admin_token_of_the_environment(other: Server) -> None:
    assert other.admin_json("GET", "/v0/workspace")["name"] == "other"
    for wrong in ("chosen by the operatoR", "chosen by the operator!", "chosen by the operato"):
        refused(other.get("/v0/workspace", wrong), 403, "RK4002")
    assert not (other.directory / ".rookery" / "admin_token").exists()


@pytest.mark.proves("A6")
def test_tokens_of_another_workspace(server: Server, secret: str, other: Server) -> None:
    refused(other.get(PATH, signed(secret)), 403, "RK4002")
    refused(other.get(PATH, signed(secret, workspace_id="other")), 403, "RK4002")
    refused(other.get("/v0/tokens", server.admin_token), 403, "RK4002")
    key = other.admin_json("GET", "/v0/signing-key")["secret"]
    assert data(other.get(PATH, signed(key, workspace_id="other")))
    refused(other.get(PATH, signed(key, workspace_id="main")), 403, "RK4002")


@pytest.mark.proves("A6")
def test_keys_rotate_with_an_overlap(other: Server) -> None:
    old = other.admin_json("GET", "/v0/signing-key")
    assert len(bytes.fromhex(old["secret"])) * 8 >= 256
    token = signed(old["secret"], workspace_id="other")
    assert data(other.get(PATH, token))
    new = other.admin_json("POST", "/v0/signing-key", json={"overlap": 2})
    assert new["secret"] != old["secret"]
    assert data(other.get(PATH, token)), "within the overlap"
    assert data(other.get(PATH, signed(new["secret"], workspace_id="other")))
    time.sleep(2.2)
    refused(other.get(PATH, token), 403, "RK4002")
    refused(other.get(PATH, signed(old["secret"], workspace_id="other", name="y")), 403, "RK4002")
    now = other.admin_json("POST", "/v0/signing-key", json={"overlap": 0})
    refused(other.get(PATH, signed(new["secret"], workspace_id="other")), 403, "RK4002")
    assert data(other.get(PATH, signed(now["secret"], workspace_id="other")))
    for overlap in (-1, "x", True, 10**12):
        refused(other.admin("POST", "/v0/signing-key", json={"overlap": overlap}), 400)


@pytest.mark.proves("D10", "B15")
def test_a_removed_tenant_is_refused(other: Server) -> None:
    other.tenant("7", "tables")
    token, static = (
        other.mint("PIPES:READ:by_kind", tenant="7"),
        other.static("of 7", "PIPES:READ:by_kind", tenant="7"),
    )
    append = other.static("append 7", "DATASOURCES:APPEND:events", tenant="7")
    assert other.post("/v0/events?name=events", append, content='{"units":7}').status_code == 202
    assert data(other.get(PATH, token)) == data(other.get(PATH, static)) != []
    assert other.admin("DELETE", "/v0/tenants/7").status_code == 204
    refused(other.get(PATH, token), 403, "RK4002")
    refused(other.get(PATH, static), 403, "RK4002")
    refused(other.post("/v0/events?name=events", append, content='{"units":7}'), 403, "RK4002")
    refused(
        other.post("/v0/sql", other.admin_token, content="SELECT 1", headers={"x-rookery-tenant": "7"}), 404, "RK3004"
    )
