"""What all responses have in common."""

from __future__ import annotations

from tempfile import gettempdir
from typing import Any

import httpx

from engine.errors import PUBLISHED_PAGES

SECRETS = (
    "Traceback", "DB::Exception", f"{gettempdir()}/", "main_", "_rk_", "rk_tenant", "payroll", "employee_secret_column",
)  # fmt: skip


def refused(response: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """The error body of a refused request: JSON with an error, a code and where to read about it, and no insides."""
    assert response.status_code == status, f"{response.status_code}: {response.text[:500]}"
    assert response.headers["content-type"] == "application/json"
    body: dict[str, Any] = response.json()
    assert isinstance(body["error"], str) and body["error"]
    assert body["documentation"] == f"{PUBLISHED_PAGES}#{body['code'].lower()}"
    assert code is None or body["code"] == code, body
    assert not [s for s in SECRETS if s in response.text], body
    return body


def data(response: httpx.Response) -> list[dict[str, Any]]:
    """The rows of a JSON answer."""
    assert response.status_code == 200, f"{response.status_code}: {response.text[:500]}"
    body = response.json()
    assert body["rows"] == len(body["data"])
    rows: list[dict[str, Any]] = body["data"]
    return rows
