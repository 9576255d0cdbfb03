"""Counting and reading the rows of the server `inbox`."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import httpx

from tests.support.server import Server
from tests.web.responses import data

Send = Callable[..., httpx.Response]


DATASOURCES = ("events", "notes", "clicks", "prices")


def count(server: Server, *quarantines: str) -> list[int]:
    """Rows of four datasources, then rows in their quarantines, or only in those that are named."""
    rows = server.sql(
        "SELECT (SELECT count() FROM events) AS a, (SELECT count() FROM notes) AS b, "
        "(SELECT count() FROM clicks) AS c, (SELECT count() FROM prices) AS d"
    )
    return [*rows[0].values(), *(quarantine(server, name)["total"] for name in quarantines or DATASOURCES)]


def quarantine(server: Server, name: str) -> Any:
    return server.admin_json("GET", f"/v0/datasources/{name}/quarantine", params={"limit": 1})


def quarantined(server: Server, response: httpx.Response, name: str = "events", *, beside: int = 0) -> dict[str, Any]:
    """The only row of a request that went to quarantine; `beside` others are stored."""
    assert response.status_code == 200, response.text
    answer = response.json()
    first = answer.pop("first_bad_row")
    answer.pop("unknown_keys", None)
    assert answer == {"successful_rows": beside, "quarantined_rows": 1}
    row: dict[str, Any] = quarantine(server, name)["rows"][0]
    columns = [c for c in row["c__error_column"] if c]
    assert first == {"row": row["c__row"] + 1, "columns": columns, "reason": "; ".join(row["c__error"])}
    assert row["c__error"] and all(row["c__error"]) and len(row["c__error"]) == len(row["c__error_column"])
    return row


def delivered(server: Server, mark: str, tenant: str = "1") -> int:
    """Rows of a mark that a tenant reads; tenant 1 reads them from its nest."""
    rows = data(server.get("/v0/pipes/raw.json", server.mint("PIPES:READ:raw", tenant=tenant)))
    return sum(r["note"] == mark for r in rows)


_marks = itertools.count()


def stored(server: Server, mark: str, columns: str = "tenant_id, units, page, depth, tags") -> list[list[object]]:
    rows = server.sql(f"SELECT {columns} FROM events WHERE note = '{mark}' ORDER BY tenant_id, units")
    return [list(r.values()) for r in rows]


def mark() -> str:
    return f"mark-{next(_marks)}"
