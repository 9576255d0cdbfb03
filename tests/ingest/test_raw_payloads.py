"""A text column over a whole key keeps the sent bytes, even if other columns read deeper in that key."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from engine.errors import RookeryError
from engine.ingest.stage_schemas import schema_for
from engine.warehouse.port import Input
from tests.support.in_process import Rookery, open_rookery
from tests.support.soak import paired

OBJECTS = [
    '{"x": 1}',
    '{"x": 1, "a.b": 2, "c": {"d.e": 3}}',
    '{"n": null, "e": {}, "l": [], "x": null}',
    '{"big": 123456789012345678901234567890, "f": 1.10, "e": 1E+2, "z": -0.0}',
    '{"s": "caf\\u00e9 \\ud83d\\ude00 \\"}{\\" \\n", "x": 2}',
    '{"mixed": [1, {"y": [null, "b"]}, "c"]}',
    "{}",
]
OTHERS = ['[1, {"x": 2}]', '["a"]', "[]", "5.10", "12345678901234567890123", "true"]
OTEL = (
    '{"timeUnixNano": "1763700000123456789", "severityText": "INFO", "body": {"stringValue": "hi"}, "attributes": '
    '[{"key": "http.method", "value": {"stringValue": "GET"}}, {"key": "n", "value": {"intValue": "7"}}], "flags": 1}'
)
STRIPE = (
    '{"id": "evt_1", "created": 1763700000, "type": "charge.succeeded", "data": {"object": {"id": "ch_1", "amount": '
    '1099, "metadata": {}, "fee.details": null, "lines": {"data": [{"id": "li_1", "qty": 1}, {"id": "li_2"}]}}}}'
)


@pytest.fixture(scope="module")
def rookery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with open_rookery(tmp_path_factory.mktemp("raw")) as opened:
        yield opened


def push(rookery: Rookery, name: str, *columns: tuple[str, str, str]) -> None:
    listed = [{"name": n, "type": k, **({"json": p} if p else {})} for n, k, p in columns]
    rookery.push(
        {f"datasources/{name}.yaml": json.dumps({"columns": listed, "engine": {"sorting_key": ["tuple()"]}})}
    )


def append(rookery: Rookery, name: str, body: str, key: str | None = None) -> tuple[int, int]:
    outcome = rookery.gateway.append(name, body.encode(), Input.NDJSON, None, key).result(60)
    return outcome.rows, outcome.quarantined


@pytest.mark.parametrize(
    ("whole", "turned"), paired(("String", "LowCardinality(String)", "Nullable(String)"), (False, True))
)
def test_a_payload_is_kept_byte_for_byte(rookery: Rookery, whole: str, turned: bool) -> None:
    """In every form: alone, beside a bad row, keyed, and in a body too large to share a batch."""
    name = f"raw_{len(whole)}_{turned}"
    columns = [("id", "UInt32", ""), ("payload", whole, ""), ("x", "Nullable(Int64)", "$.payload.x")]
    push(rookery, name, *(reversed(columns) if turned else columns))
    texts = [*OBJECTS, *OTHERS]
    lines = [f'{{"id": {n}, "payload": {text}, "note": "p"}}' for n, text in enumerate(texts)]
    ways = {
        "together": "\n".join(lines),
        "bad": "\n".join([*lines, '{"id": "no"}']),
        "large": "\n".join([*lines, *(['{"id": 999}'] * 6_000)]),
        "list": "[" + ",\n".join(lines) + "]",
    }
    for way, body in ways.items():
        for key in (None, way):
            rows, bad = append(rookery, name, body, key)
            assert (rows >= len(lines), bad) == (True, way == "bad")
            stored = rookery.rows(f"SELECT payload, x FROM main.{name} WHERE id < 900 ORDER BY id")
            assert [payload for payload, _ in stored] == texts, way
            values = [json.loads(t) for t in texts]
            assert [x for _, x in stored] == [v.get("x") if isinstance(v, dict) else None for v in values]
            rookery.run(f"TRUNCATE TABLE main.{name}")


def test_a_nested_object_is_kept_byte_for_byte(rookery: Rookery) -> None:
    columns = [
        ("type", "LowCardinality(String)", ""),
        ("data", "String", ""),
        ("object", "String", "$.data.object"),
        ("id", "String", "$.data.object.id"),
        ("amount", "UInt64", "$.data.object.amount"),
        ("created", "DateTime('UTC')", ""),
    ]
    push(rookery, "stripe", *columns)
    event = json.loads(STRIPE)
    assert append(rookery, "stripe", STRIPE + "\n" + '{"type": "none"}') == (2, 0)
    ((data, object, *others), none) = rookery.rows(
        "SELECT data, object, id, amount, toString(created) FROM main.stripe ORDER BY type"
    )
    assert data in STRIPE and json.loads(data) == event["data"]
    assert object in STRIPE and json.loads(object) == event["data"]["object"]
    assert others == ["ch_1", 1099, "2025-11-21 04:40:00"]
    assert none == ("", "", "", 0, "1970-01-01 00:00:00")


def test_opentelemetry_log_records(rookery: Rookery) -> None:
    columns = [
        ("severity", "LowCardinality(String)", "$.severityText"),
        ("body", "String", "$.body"),
        ("text", "String", "$.body.stringValue"),
        ("attributes", "Array(JSON)", "$.attributes[:]"),
        ("attributes_text", "String", "$.attributes"),
    ]
    push(rookery, "otel", *columns)
    odd = OTEL.replace('{"stringValue": "hi"}', '["not", "an object"]')
    assert append(rookery, "otel", OTEL + "\n" + odd) == (2, 0)
    raw = json.dumps(json.loads(OTEL)["attributes"])
    assert rookery.rows("SELECT body, text, attributes_text, length(attributes) FROM main.otel ORDER BY text") == [
        ('["not", "an object"]', "", raw, 2),
        ('{"stringValue": "hi"}', "hi", raw, 2),
    ]


def test_events_cannot_set_internal_columns_of_the_stage(rookery: Rookery) -> None:
    push(rookery, "own", ("id", "UInt32", ""), ("payload", "String", ""), ("x", "Int64", "$.payload.x"))
    stage = schema_for(rookery.workspace.current, "own", Input.NDJSON)
    shared = [reader.name for readers in stage.shared.values() for reader in readers]
    assert len(shared) == 2
    keys = [*shared, "_rk_n", "_rk_0_0"]
    body = "\n".join(json.dumps({"id": 1, "payload": {"x": 5}, key: {"x": 6}}) for key in keys[2:])
    assert append(rookery, "own", body) == (2, 0)
    assert rookery.rows("SELECT DISTINCT payload, x FROM main.own") == [('{"x": 5}', 5)]
    assert append(rookery, "own", '{"id": 2, "payload": {"x": 1}, "PAYLOAD": {"x": 2}}') == (0, 1)
    assert append(rookery, "own", '{"id": 3, "p\\u0061yload": {"x": 9}}') == (1, 0)
    assert rookery.rows("SELECT payload, x FROM main.own WHERE id = 3") == [('{"x": 9}', 9)]


@pytest.mark.parametrize("fanout", ["direct", "routed"])
def test_tenants_get_the_same_bytes(rookery: Rookery, fanout: str) -> None:
    """Also if the tenant is in the shared key. A row without a tenant is never stored."""
    name = f"landed_{fanout}"
    columns = [
        {"name": "tenant_id", "type": "String", "json": "$.who.id"},
        {"name": "id", "type": "UInt32"},
        {"name": "who", "type": "String"},
        {"name": "names", "type": "Array(String)", "json": "$.items[:].name"},
        {"name": "items", "type": "String"},
    ]
    source = {
        "columns": columns,
        "tenant": {"column": "tenant_id", "fanout": fanout},
        "engine": {"sorting_key": ["tenant_id"]},
    }
    rookery.push({f"datasources/{name}.yaml": json.dumps(source)})
    own = [f"{fanout}1", f"{fanout}2"]
    rookery.add(*own)
    who = [f'{{"id": "{tenant}", "a.b": null, "n": 1.10}}' for tenant in own]
    items = '[{"name": "x", "e": {}}, {}]'
    lines = [f'{{"id": {n}, "who": {who[n % 2]}, "items": {items}}}' for n in range(10)]
    without_tenant = [f'"{own[0]}"', f'["{own[0]}"]', "null", f'{{"ID": "{own[0]}"}}', '{"id": 1.0}']
    lines += [f'{{"id": {n}, "who": {value}}}' for n, value in enumerate(without_tenant, 100)]
    outcome = rookery.gateway.append(name, "\n".join(lines).encode(), Input.NDJSON).result(60)
    assert (outcome.rows, outcome.quarantined) == (10, len(without_tenant))
    assert outcome.visible is None or outcome.visible.result(30)
    for number, tenant in enumerate(own):
        copies = rookery.rows(f"SELECT id, who, names, items FROM {rookery.nest(tenant)}.{name} ORDER BY id")
        assert copies == [(n, who[number], ["x", ""], items) for n in range(10) if n % 2 == number]
    good = "\n".join(lines[:10:2]).encode()
    outcome = rookery.gateway.append(name, good, Input.NDJSON, own[0]).result(60)
    assert (outcome.rows, outcome.quarantined) == (5, 0)
    foreign = rookery.gateway.append(name, good, Input.NDJSON, own[1])
    with pytest.raises(RookeryError, match="RK5003"):
        foreign.result(60)
