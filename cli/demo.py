"""The demo: the main features on the example project, over real HTTP, step by step."""

from __future__ import annotations

import base64
import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from cli import output, plan_output
from cli.connect import connect
from cli.connection import Connection
from cli.options import options
from engine.errors import NOT_A_PROJECT, TARGET_EXISTS, RookeryError
from engine.plurals import counted
from engine.project.parse import load

TENANTS = {"1": "tables", "2": "tables", "3": "pooled"}
PRICES = {"api_call": 1.0, "export": 25.0, "storage_gb": 4.0}
EVENT_COUNT = 3_000


def run() -> None:
    """Push, add tenants, ingest, mint tokens, call endpoints, and try to read other tenants' rows. Leaves nothing
    running.
    """
    sources = load(Path(__file__).resolve().parent.parent).resources()
    if not sources:
        hint = "run `make demo` in a checkout of rookery"
        raise RookeryError(NOT_A_PROJECT, "the example project is not installed with the command", hint=hint)
    files = [{"name": r.name, "file": r.place.file, "text": r.text} for r in sources]
    with connect(create=True) as connection:
        _require_no_others(connection, {r.name: r.text for r in sources})
        _push(connection, files)
        _provision(connection)
        _ingest(connection)
        tokens = {t: _token(connection, t) for t in TENANTS}
        _call(connection, tokens)
        _cheat(connection, tokens)
    _next_steps()


def _head(number: int, text: str) -> None:
    output.line("\n", (f"{number}.", "bold cyan"), " ", (text, "bold"))


def _require_no_others(connection: Connection, example: Mapping[str, str]) -> None:
    """Raise RK3011 if the workspace has other resources than the example: it may be a real one."""
    for kind in ("datasources", "pipes"):
        for name in (r["name"] for r in connection.json("GET", f"/v0/{kind}")[kind]):
            if connection.json("GET", f"/v0/{kind}/{name}")["content"] != example.get(name):
                raise RookeryError(
                    TARGET_EXISTS,
                    f"`{name}` in this workspace is not that of the example project: it may be in use",
                    hint="use a new data directory: rookery --data .rookery/demo/data demo",
                )


def _push(connection: Connection, files: list[dict[str, Any]]) -> None:
    _head(1, "Push the example project: a landing table, a per-tenant pipe, three endpoints")
    with output.progress("push") as update:
        result = connection.watched("/v0/push", {"files": files}, update)
    plan_output.show(result)
    plan_output.show_warnings(result)
    if not result["steps"]:
        output.data("  everything exists already")


def _provision(connection: Connection) -> None:
    _head(2, "Add three tenants: two with tables of their own, one pooled")
    for tenant, placement in TENANTS.items():
        body = {"id": tenant, "placement": placement}
        added = connection.json("POST", "/v0/tenants", json=body)["tenants"][0]
        verb = "added" if added["created"] else "exists already"
        output.data(f"  tenant {tenant} {verb}: {placement}")


def _events() -> bytes:
    """Random events of this month, as NDJSON, for tenants 1 to 4. Tenant 4 does not exist yet."""
    rng = random.Random()
    now = datetime.now(UTC).replace(microsecond=0, tzinfo=None)
    month = now.replace(day=1, hour=0, minute=0, second=0)
    span = max(int((now - month).total_seconds()), 1)
    lines = []
    for _ in range(EVENT_COUNT):
        moment = month + timedelta(seconds=rng.randrange(span))
        event_name = rng.choice(list(PRICES))
        event = {
            "tenant_id": rng.randrange(1, 5),
            "timestamp": str(moment),
            "event": event_name,
            "units": PRICES[event_name],
        }
        lines.append(orjson.dumps({**event, "user_id": f"user-{rng.randrange(40)}"}))
    return b"\n".join(lines)


def _ingest(connection: Connection) -> None:
    _head(3, f"Send {EVENT_COUNT:,} events of four tenants to one landing table")
    params = {"name": "events", "wait": "true"}
    appended = connection.json("POST", "/v0/events", params=params, content=_events())
    output.data(f"  stored {counted(appended['successful_rows'], 'row')}; the views have delivered them:")
    for tenant, placement in TENANTS.items():
        record = connection.json("GET", f"/v0/tenants/{tenant}")
        tables = ", ".join(f"{t['name']} {t['rows']:,}" for t in record["tables"]) or "rows of the shared tables"
        location = record["nest"] or "pool"
        output.data(
            f"  tenant {tenant} ({placement}): {counted(record['rows'], 'row')} in total; {location}: {tables}"
        )
    unknown = [t for t in connection.json("GET", "/v0/tenants")["tenants"] if t["state"] == "unknown"]
    for tenant in unknown:
        output.data(f"  tenant {tenant['id']} does not exist: {counted(tenant['rows'], 'row')} of it in landing")


def _token(connection: Connection, tenant: str) -> str:
    body = {"name": f"demo {tenant}", "tenant": tenant, "ttl": 3600, "scopes": ["PIPES:READ:usage_current_month"]}
    return str(connection.json("POST", "/v0/tokens", json=body)["token"])


def _get(connection: Connection, path: str, token: str, **extra: Any) -> Any:
    return connection.json(
        "GET", path, headers={"authorization": f"Bearer {token}", **extra.pop("headers", {})}, **extra
    )


def _call(connection: Connection, tokens: Mapping[str, str]) -> None:
    _head(4, "Call one endpoint with each tenant's own token")
    for tenant, token in tokens.items():
        usage = _get(connection, "/v0/pipes/usage_current_month.json", token)
        units = ", ".join(f"{r['event']} {r['units']:,.0f}" for r in usage["data"])
        amount = sum(r["amount"] for r in usage["data"])
        output.data(f"  tenant {tenant}: {units}; amount due {amount:,.2f}")


def _cheat(connection: Connection, tokens: Mapping[str, str]) -> None:
    _head(5, "Try to see tenant 2's data with tenant 1's token")
    token = tokens["1"]
    header, payload, signature = token.split(".")
    claims = orjson.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    forged = base64.urlsafe_b64encode(orjson.dumps({**claims, "tenant": "2"})).decode().rstrip("=")
    endpoint = "/v0/pipes/usage_current_month.json"
    attempts = {
        "the claim `tenant` changed to 2": (endpoint, f"{header}.{forged}.{signature}", {}),
        "the header for admins": (endpoint, token, {"headers": {"x-rookery-tenant": "2"}}),
        "an endpoint that the token does not name": ("/v0/pipes/usage.json", token, {}),
        "SQL on the landing table": ("/v0/sql", token, {"params": {"q": "SELECT * FROM events"}}),
    }
    for attempt, (path, used_token, extra) in attempts.items():
        try:
            _get(connection, path, used_token, **extra)
        except RookeryError as exc:
            output.data(f"  {attempt}: refused with {exc.code.status}, {exc.message}")
        else:
            raise RuntimeError(f"{attempt} was not refused")


def _next_steps() -> None:
    data = options.loaded().data
    output.line("\n", ("Done. Nothing is left running.", "bold"), " Now try:")
    for command, effect in (
        ("make serve", "starts a server on http://127.0.0.1:7181"),
        ("rookery tenant add 4 --placement tables", "delivers tenant 4's rows, which wait in landing"),
        ("rookery get usage --tenant 4", "calls an endpoint as that tenant"),
        ('rookery sql "SELECT event, count() FROM events GROUP BY event"', "queries the landing table"),
        ("rookery token mint me --scope PIPES:READ:usage --tenant 1", "creates a token for your own calls"),
    ):
        output.data(f"  {command}  # {effect}")
    output.data(f"  (the rookery command is in .venv/bin, the data in {data})")
