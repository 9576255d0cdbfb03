"""The pages of errors: every code has one, errors link to it absolutely, and nothing of a request gets into either."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from engine.errors import BAD_YAML, PUBLISHED_PAGES, Place, RookeryError, codes
from tests.support.server import Server, running, sources

pytestmark = pytest.mark.feature
PUBLIC, DOCS = "https://analytics.example.com/base/", "https://docs.example.com/rookery/"
EVIL = {"host": "evil.example", "x-forwarded-host": "evil.example", "forwarded": "host=evil.example"}


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("public"), ROOKERY_PUBLIC_URL=PUBLIC) as server:
        yield server


def test_the_url_of_an_error_comes_from_the_settings_and_never_from_the_request(public: Server) -> None:
    for path in ("/v0/pipes/missing.json", "/nowhere", "/v0/events?name=events"):
        method = "POST" if "events" in path else "GET"
        body = public.request(method, path, headers=EVIL, content=b"{}" if method == "POST" else None).json()
        assert body["documentation"] == f"{PUBLIC}docs/errors/{body['code']}"


def test_refused_connections_have_the_same_url(public: Server) -> None:
    address = urlsplit(public.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(b"not HTTP\r\n\r\n")
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    assert f'"documentation":"{PUBLIC}docs/errors/RK4025"'.encode() in answer


def test_a_setting_leads_to_pages_elsewhere(tmp_path: Path) -> None:
    with running(tmp_path, ROOKERY_PUBLIC_URL=PUBLIC, ROOKERY_DOCS_URL=DOCS) as server:
        assert server.get("/nowhere").json()["documentation"] == f"{DOCS}errors/RK4019"


def test_without_settings_it_is_the_projects_page(server: Server) -> None:
    assert server.get("/nowhere", headers=EVIL).json()["documentation"] == f"{PUBLISHED_PAGES}#rk4019"


def test_each_problem_of_a_push_has_a_url(public: Server) -> None:
    files = {f"datasources/{name}.yaml": "columns:\n  - {name: x, typ: String}\n" for name in "ab"}
    body = public.admin("POST", "/v0/push", json={"files": sources(files)}).json()
    assert len(body["errors"]) > 1
    for problem in body["errors"]:
        assert problem["documentation"] == f"{PUBLIC}docs/errors/{problem['code']}"


def test_every_code_has_a_page_without_a_token(public: Server) -> None:
    listing = public.get("/docs/errors")
    assert listing.headers["content-type"].startswith("text/html")
    for code in codes():
        assert f'href="{PUBLIC}docs/errors/{code}"' in listing.text
        response = public.get(f"/docs/errors/{code}")
        assert response.status_code == 200 and f"<h1>{code}</h1>" in response.text
        assert all(u.startswith("https://") for u in re.findall(r'href="([^"]*)"', response.text)), (
            "no relative links"
        )
    assert public.get("/docs/errors/rk4006").status_code == 200


def test_pages_cannot_load_run_or_be_embedded(public: Server) -> None:
    for path in ("/docs/errors", "/docs/errors/RK4006"):
        response = public.get(path)
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert not re.findall(r"<script|<img|<link|<iframe|src=|url\(|@import", response.text)


@pytest.mark.parametrize(
    "accept, kind",
    [
        ("text/plain", "text/plain"),
        ("text/plain, text/html;q=0.5", "text/plain"),
        ("text/html, text/plain;q=0.5", "text/html"),
        ("*/*", "text/html"),
        ("text/plain;q=x", "text/html"),
        ("text/plain;q=nan;;,,;", "text/html"),
    ],
)
def test_the_header_accept_chooses(server: Server, accept: str, kind: str) -> None:
    for path in ("/docs/errors", "/docs/errors/RK4006"):
        response = server.get(path, headers={"accept": accept})
        assert response.status_code == 200
        assert response.headers["content-type"] == f"{kind}; charset=utf-8"
        assert ("<" not in response.text) == (kind == "text/plain") or "<b" not in response.text


@pytest.mark.parametrize(
    "code", ["RK9999", "<script>alert(1)</script>", "..%2f..%2fsettings", "RK4006%0d%0aX: y", "%ff"]
)
def test_an_unknown_code_is_not_echoed(server: Server, code: str) -> None:
    response = server.get(f"/docs/errors/{code}?token=secret<b>")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/json"
    assert "script" not in response.text and "secret" not in response.text


@pytest.mark.parametrize("url", ["docs.example.com", "javascript:alert(1)", "https://a b", 'https://a"'])
def test_the_setting_must_be_a_web_address(url: str) -> None:
    from engine.settings import load

    with pytest.raises(RookeryError) as caught:
        load(docs_url=url)
    assert caught.value.code.id == "RK7001" and "http" in caught.value.message


def test_an_empty_place_is_not_shown() -> None:
    exc = RookeryError(BAD_YAML, "x", place=Place())
    assert str(exc).startswith("RK1001") and "place" not in exc.as_dict()
