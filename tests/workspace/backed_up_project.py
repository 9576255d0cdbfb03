"""A project with routed rows, shared datasources and a view that fails on one row."""

from __future__ import annotations

import json
import time

from tests.cli.billing import EVENTS, FILES
from tests.support.server import Server

PLANS = """
shared: true
columns:
  - {name: plan, type: String}
  - {name: price, type: UInt64}
engine: {type: MergeTree, sorting_key: [plan]}
"""
SHARES = """
shared: true
columns:
  - {name: event, type: LowCardinality(String)}
  - {name: shares, type: UInt64}
engine: {type: SummingMergeTree, sorting_key: [event], columns: [shares]}
"""
# Fails for the row with as many units as DIVISOR.
SHARES_PIPE = """
nodes:
  - name: shares_of
    sql: SELECT event, sum(abs(intDiv(1000, toInt64(units) - 500))) AS shares FROM events GROUP BY event
materialize: {target: shares}
"""
DIVISOR = 500
ROUTED = {
    **FILES,
    "datasources/events.yaml": EVENTS.replace("tenant: tenant_id", "tenant: {column: tenant_id, fanout: routed}"),
    "datasources/plans.yaml": PLANS,
    "datasources/shares.yaml": SHARES,
    "pipes/shares_pipe.yaml": SHARES_PIPE,
}


def suspend(server: Server) -> None:
    """Append a row on which a view fails, until the view is suspended."""
    deadline = time.monotonic() + 60
    body = json.dumps({"tenant_id": 1, "event": "a", "units": DIVISOR})
    while not server.admin_json("GET", "/v0/fanout")["suspended"]:
        assert time.monotonic() < deadline
        server.admin("POST", "/v0/events", params={"name": "events"}, content=body)
        time.sleep(0.1)
