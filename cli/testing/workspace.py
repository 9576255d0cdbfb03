"""Prepares a workspace for tests, and calls its endpoints with tokens like those of customers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cli.connection import Connection
from cli.testing.model import Answer, Call
from cli.testing.rows import Fixture, FixtureRow
from cli.testing.values import Column, parsed
from engine.errors import APPLY_FAILED, BAD_ROW, NO_SERVER, REMOTE, Place, RookeryError
from engine.project.model import Project
from engine.project.suite import Placement
from engine.warehouse.type_names import parse_type

DELIVERY_SECONDS = 60.0
"""How long rows may take to arrive in the tenants' tables."""
TOKEN_SECONDS = 3_600
MAX_SCOPES = 500
"""Maximum number of scopes of a JWT."""
_NOT_ANSWERS = {NO_SERVER.id, REMOTE.id}
"""Errors of the connection, which are not answers to a call."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A workspace with the project and the tenants of a test file."""

    connection: Connection
    project: Project
    zone: str
    _tokens: dict[tuple[str | None, str], str] = field(default_factory=dict)

    def append(self, fixture: Fixture, rows: Sequence[FixtureRow]) -> list[str]:
        """Append rows of a fixture; returns warnings. Raises RK5001 at the first bad row."""
        if not rows:
            return []
        response = self.send(fixture, rows)
        if response["quarantine_rows"] or response.get("refused_rows"):
            raise bad_row(fixture, rows, response.get("first_bad_row"))
        unknown = unknown_keys(response)
        return [f"{fixture.place}: {fixture.datasource} has no column for {', '.join(unknown)}"] if unknown else []

    def send(self, fixture: Fixture, rows: Sequence[FixtureRow]) -> Mapping[str, Any]:
        """Append rows of a fixture. Returns the response, which counts bad rows."""
        params = {"mode": "append", "name": fixture.datasource, "format": fixture.format}
        try:
            response: Mapping[str, Any] = self.connection.json(
                "POST", "/v0/datasources", params=params, content=fixture.body(rows)
            )
        except RookeryError as exc:
            raise RookeryError(exc.code, exc.message, hint=exc.hint, place=fixture.place) from exc
        return response

    def wait_for_delivery(self) -> None:
        """Wait until the rows are in the tenants' tables. Raises RK3010 if one of these or a view refuses them."""
        deadline = time.monotonic() + DELIVERY_SECONDS
        while True:
            status = self.connection.json("GET", "/v0/fanout")
            for view in status["suspended"]:
                raise RookeryError(APPLY_FAILED, f"a view failed on the rows of a fixture: {view['error']}")
            lagging = [tenant for d in status["datasources"] for tenant in d["lagging"]]
            for tenant in lagging:
                if tenant["error"]:
                    raise RookeryError(APPLY_FAILED, f"tenant {tenant['tenant']}: {tenant['error']}")
            if not lagging and not any(d["rows"] for d in status["datasources"]):
                return
            if time.monotonic() > deadline:
                raise RookeryError(
                    APPLY_FAILED, "the rows of the fixtures did not arrive in the tenants' tables in time"
                )
            time.sleep(0.02)

    def call(self, call: Call, tenant: str | None) -> Answer:
        """The answer to a call with a token for a tenant, or as admin."""
        headers = {} if tenant is None else {"authorization": f"Bearer {self._token(call.endpoint, tenant)}"}
        request: dict[str, Any] = {"headers": headers, "params": {"output_format_json_quote_64bit_integers": "0"}}
        if call.endpoint and all(isinstance(value, str) for value in call.params.values()):
            method, path = "GET", f"/v0/pipes/{call.endpoint}.json"
            request["params"] |= call.params
        else:
            # Only a body has arrays whose items contain commas.
            method, path = "POST", f"/v0/pipes/{call.endpoint}.json" if call.endpoint else "/v0/sql"
            request["json"] = {**call.params, **({"q": call.sql} if call.sql else {})}
        try:
            response = self.connection.request(method, path, **request)
        except RookeryError as exc:
            if exc.code.id in _NOT_ANSWERS:
                raise
            return Answer(error=exc)
        body = parsed(response.content)
        columns = [Column(c["name"], parse_type(c["type"])) for c in body["meta"]]
        return Answer(columns, body["data"], seconds=float(body["statistics"]["elapsed"]))

    def _token(self, endpoint: str | None, tenant: str) -> str:
        """A token that allows one endpoint or, for a query, reading everything; for this tenant."""
        key = (endpoint, tenant)
        if key not in self._tokens:
            body = {"name": f"test {len(self._tokens)}", "tenant": tenant, "ttl": TOKEN_SECONDS}
            minted = self.connection.json("POST", "/v0/tokens", json={**body, "scopes": self._scopes(endpoint)})
            self._tokens[key] = minted["token"]
        return self._tokens[key]

    def _scopes(self, endpoint: str | None) -> list[str]:
        if endpoint is not None:
            return [f"PIPES:READ:{endpoint}"]
        pipes = [f"PIPES:READ:{name}" for name, pipe in self.project.pipes.items() if pipe.kind == "endpoint"]
        return [*(f"DATASOURCES:READ:{name}" for name in self.project.datasources), *pipes][:MAX_SCOPES]


def prepare(connection: Connection, project: Project, tenants: Mapping[str, Placement]) -> Prepared:
    """Push the project and add tenants. Raises the errors of these steps."""
    push(connection, project)
    for placement in dict.fromkeys(tenants.values()):
        ids = [tenant for tenant, own in tenants.items() if own == placement]
        connection.json("POST", "/v0/tenants", json={"ids": ids, "placement": placement})
    return Prepared(connection, project, str(connection.json("GET", "/v0/workspace")["timezone"]))


def push(connection: Connection, project: Project) -> None:
    """Make the workspace what the project declares. Raises the errors of a push."""
    files = [{"name": r.name, "file": r.place.file or "", "text": r.text} for r in project.resources()]
    connection.json("POST", "/v0/push", json={"files": files, "prune": True})


def unknown_keys(response: Mapping[str, Any]) -> list[str]:
    """Keys and columns of appended rows that the datasource does not have."""
    return [*response["ignored_columns"], *response.get("unknown_keys", {}).get("names", ())]


def bad_row(fixture: Fixture, rows: Sequence[FixtureRow], first: Mapping[str, Any] | None) -> RookeryError:
    """RK5001 at the place of the row that the server calls `first_bad_row`."""
    place: Place = fixture.place
    if first is None:
        return RookeryError(BAD_ROW, f"a row of `{fixture.datasource}` cannot be stored", place=place)
    number = int(first["row"]) - 1
    if number < len(rows):
        place = rows[number].place
    columns = f"`{'`, `'.join(first['columns'])}`: " if first["columns"] else ""
    message = f"the row cannot be stored in `{fixture.datasource}`: {columns}{first['reason']}"
    return RookeryError(BAD_ROW, message, place=place)
