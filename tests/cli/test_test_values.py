"""`rookery test`: which values are equal, fixtures in every form, and hostile or wrong fixtures."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.billing import FILES
from tests.cli.commands import Cli

pytestmark = pytest.mark.feature

EQUAL = [
    ("toUInt64(18446744073709551615)", "18446744073709551615"),
    ("toInt256('-57896044618658097711785492504343953926634992332820282019728792003956564819968')",
     "-57896044618658097711785492504343953926634992332820282019728792003956564819968"),
    ("toUInt8(7)", "'7'"),
    ("toDecimal64('1.5', 3)", "1.50"),
    ("toDecimal128('12345678901234567890.123456789', 9)", "12345678901234567890.123456789"),
    ("toFloat64(0.1) + 0.2", "0.3"),
    ("toFloat32(0.1)", "0.1"),
    ("toFloat64('nan')", "nan"),
    ("true", "true"),
    ("true", "1"),
    ("toDate('2026-01-01')", "2026-01-01"),
    ("toDateTime('2026-01-01 10:00:00')", "2026-01-01T10:00:00Z"),
    ("toDateTime('2026-01-01 10:00:00')", "2026-01-01 11:00:00+01:00"),
    ("toDateTime('2026-01-01 00:00:00')", "2026-01-01"),
    ("toDateTime64('2026-01-01 10:00:00.5', 3)", "2026-01-01 10:00:00.50"),
    ("toDateTime('2026-01-01 10:00:00', 'Europe/Berlin')", "2026-01-01T09:00:00Z"),
    ("CAST(NULL AS Nullable(String))", "null"),
    ("'null'", "'null'"),
    ("''", "''"),
    ("'2026'", "2026"),
    ("[1, 2, NULL]", "[1, 2, null]"),
    ("CAST([], 'Array(UInt8)')", "[]"),
    ("[toFloat64(0.1) + 0.2]", "[0.3]"),
    ("map('a', 1, 'b', 2)", "{b: 2, a: 1}"),
    ("tuple(1, 'x')", "[1, x]"),
    ("toLowCardinality('x')", "x"),
    ("toUUID('61f0c404-5cb3-11e7-907b-a6006ad3dba0')", "61F0C404-5CB3-11E7-907B-A6006AD3DBA0"),
    ("toDateTime(today()) > toDateTime('2026-01-01')", "1"),
]  # fmt: skip
DIFFERENT = [
    ("toUInt64(18446744073709551615)", "18446744073709551614"),
    ("toUInt64(9007199254740993)", "9007199254740992"),
    ("toUInt8(1)", "1.0"),
    ("toUInt8(1)", "true"),
    ("toUInt8(0)", "null"),
    ("toDecimal64('1.5', 3)", "1.501"),
    ("toFloat64(1)", "1.0001"),
    ("toFloat64(1)", "x"),
    ("toFloat64('nan')", "0"),
    ("true", "false"),
    ("toDate('2026-01-01')", "2026-01-02"),
    ("toDateTime('2026-01-01 10:00:00')", "2026-01-01T10:00:00+01:00"),
    ("CAST(NULL AS Nullable(String))", "''"),
    ("CAST(NULL AS Nullable(String))", "'null'"),
    ("'null'", "null"),
    ("'a'", "A"),
    ("[1, 2]", "[2, 1]"),
    ("[1, 2]", "[1]"),
    ("map('a', 1)", "{a: 1, b: 1}"),
    ("'x'", "{x: 1}"),
]


def test_values_are_compared_by_type(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    lines = ["tests:"]
    for kind, pairs in (("equal", EQUAL), ("different", DIFFERENT)):
        for number, (sql, value) in enumerate(pairs):
            lines += [
                f"  - name: {kind} {number}",
                f"    sql: |\n      SELECT {sql} AS v FROM plans",
                f"    expect: [{{v: {value}}}]",
            ]
    plans = "columns:\n  - {name: id, type: UInt8}\nengine: {type: MergeTree, sorting_key: id}\n"
    fixtures = "fixtures: {plans: [{id: 1}]}\n"
    cli.write({"datasources/plans.yaml": plans, "tests/values.yaml": fixtures + "\n".join(lines) + "\n"})
    outcomes = cli("test", "--json", code=1).json["outcomes"]
    assert len(outcomes) == len(EQUAL) + len(DIFFERENT)
    passed = {o["name"]: o["passed"] for o in outcomes}
    wrong = [(o["name"], o["failure"]) for o in outcomes if o["passed"] != o["name"].startswith("equal")]
    assert not wrong, wrong
    assert passed["equal 0"] and not passed["different 0"]


PERIOD = """
sql: SELECT count() AS n FROM events WHERE timestamp >= {{ DateTime(since) }} AND timestamp < {{ DateTime(to) }}
"""
PLANS = """
columns:
  - {name: id, type: UInt64}
  - {name: name, type: String, json: $.plan.name}
  - {name: price, type: "Decimal(18, 2)", default: "0"}
engine: {type: MergeTree, sorting_key: id}
"""
PRICES = """
nodes:
  - name: usage_priced
    sql: |
      SELECT event, events, name FROM usage_daily CROSS JOIN plans
      WHERE event IN {{ Array(kinds, 'String', 'call') }} ORDER BY event, name
"""
MANY = """
fixtures:
  events: rows.csv
  plans:
    - {id: 1, plan: {name: "free, of course"}}
    - {id: 18446744073709551615, plan: {name: "7"}, price: 12345678901234.56}
tests:
  - name: a join, and an array with a comma in an item
    endpoint: prices
    tenant: 7
    params: {kinds: [call, "a,b"]}
    unordered: true
    expect:
      - {event: call, events: 1, name: "free, of course"}
      - {event: "a,b", events: 1, name: 7}
      - {event: "a,b", events: 1, name: "free, of course"}
      - {event: call, events: 1, name: 7}
  - name: ordered
    endpoint: prices
    tenant: 8
    params: {kinds: [call]}
    expect: [{event: call, events: 1, name: 7}, {event: call, events: 1, name: "free, of course"}]
  - name: digits
    sql: SELECT id, price FROM plans ORDER BY id DESC LIMIT 1
    tenant: 8
    expect: [{id: 18446744073709551615, price: 12345678901234.56}]
  - name: a row that arrived an hour ago
    endpoint: period
    params: {since: $now-90m, to: $now-30m}
    expect: [{n: 2}]
"""


def test_fixtures_of_every_form_with_more_tenants_and_routed_delivery(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    rows = 'tenant_id,event,units\n7,call,1\n7,"a,b",1\n8,call,2\n9,call,\n\n9,call,4\n'
    routed = FILES["datasources/events.yaml"].replace(
        "tenant: tenant_id", "tenant: {column: tenant_id, fanout: routed}"
    )
    recent = (
        "  events: [{tenant_id: 7, event: call, timestamp: $now-1h}, {tenant_id: 8, event: x, timestamp: $now-1h}]\n"
    )
    one, two = MANY.split("  - name: a row that arrived")
    head = "tests:\n  - name: a row that arrived"
    cli.write(
        {
            **FILES,
            "datasources/events.yaml": routed,
            "datasources/plans.yaml": PLANS,
            "pipes/prices.yaml": PRICES,
            "pipes/period.yaml": PERIOD,
            "tests/many.yaml": one,
            "tests/rows.csv": rows,
            "tests/recent.yaml": f"tenants: {{7: tables, 8: pooled}}\nfixtures:\n{recent}{head}{two}",
        }
    )
    report = cli("test", "--json").json
    assert report["passed"], [o for o in report["outcomes"] if not o["passed"]]
    assert report["tests"] == 4


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("fixtures: {event: []}", ["1:12", "RK1010", "did you mean `events`"]),
        ("fixtures: {events: missing.ndjson}", ["RK1008", "missing.ndjson"]),
        ('fixtures: {events: "a\\0.csv"}', ["1:12", "RK1008"]),
        ("fixtures: {events: .}", ["RK1008"]),
        ("fixtures: {usage_daily: [{tenant_id: 7, event: a, events: 1, units: 1}], kinds: [{event: a}]}", ["RK5006"]),
        ("tenants: [7]\nfixtures: {events: [{tenant_id: 8, event: a}]}", ["2:21", "RK3004", "not among"]),
        ("tenants: [007]", ["RK3005"]),
        ("tenants: {7: table}", ["RK1005", "pooled or tables"]),
        ("tolerance: -1", ["RK1005"]),
        ("fixtures: {events: [{event: a}]}", ["RK5001", "1:21"]),
    ],
    ids=["name", "absent", "zero", "folder", "target", "unlisted", "id", "placement", "tolerance", "tenant"],
)  # fmt: skip
def test_wrong_fixtures(tmp_path: Path, content: str, words: list[str]) -> None:
    cli = Cli(tmp_path)
    test = "\ntests: [{name: a, endpoint: usage, expect: []}]\n"
    cli.write({**FILES, "tests/a.yaml": content + test})
    outcome = cli("test", code=7 if "RK3004" in words else 1)
    assert all(word in outcome.err for word in [*words, "tests/a.yaml"]), outcome.err


def test_errors_of_the_project_have_their_places(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    cli.write({**FILES, "tests/a.yaml": "tests: [{name: a, endpoint: usage, expect: []}]\n"})
    usage = cli.directory / "endpoints/usage.yaml"
    usage.write_text(usage.read_text().replace("sum(events)", "sum(evnts)"))
    assert "endpoints/usage.yaml:4" in cli("test", code=1).err
