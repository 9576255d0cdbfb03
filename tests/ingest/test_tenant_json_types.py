"""A tenant id in an event has the JSON type of its column: strings are never made of other values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from engine.ingest.batch import AppendResult
from engine.ingest.values.text_tenants import other_tenant_pattern
from engine.warehouse.port import Input
from tests.ingest.waiting_appends import appends, line, results
from tests.support.in_process import Rookery, open_rookery

DATASOURCE = """columns:
  - {{name: tenant_id, type: {type}{path}}}
  - {{name: id, type: String}}
tenant: {{column: tenant_id}}
engine: {{sorting_key: [tenant_id, id]}}
"""
TYPES = {"text": "String", "short": "LowCardinality(String)", "uuid": "UUID"}
UUID = "00000000-0000-0000-0000-000000000001"
OTHER_TYPES = ["true", "false", "17", "-1", "1.5", "1e3", '{"a": 1}', "{}", "[]", '["a"]', '[{"a": 1}, 2]', "1" * 45]
KEYS = ['"tenant_id":', '"TENANT_ID" : ', '"tenant\\u005fid": ', '"Tenant_Id"\t:\t']


@pytest.fixture(scope="module")
def rookery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with open_rookery(tmp_path_factory.mktemp("tenants")) as opened:
        opened.push(
            {f"datasources/{n}.yaml": DATASOURCE.format(type=t, path="") for n, t in TYPES.items()}
            | {"datasources/deep.yaml": DATASOURCE.format(type="String", path=", json: $.of.tenant")}
            | {"datasources/odd.yaml": DATASOURCE.format(type="String", path=", json: $.tenant/id")}
            | {"datasources/numbers.yaml": DATASOURCE.format(type="Int64", path="")}
        )
        yield opened


def append(rookery: Rookery, datasource: str, body: str) -> AppendResult:
    return rookery.gateway.append(datasource, body.encode(), Input.NDJSON).result(60)


def stored(rookery: Rookery, datasource: str) -> list[str]:
    """The tenants of the stored rows, which are removed."""
    ids = [id for (id,) in rookery.rows(f"SELECT toString(tenant_id) FROM main.{datasource} ORDER BY 1")]
    rookery.run(f"TRUNCATE TABLE main.{datasource}")
    return ids


def reasons(rookery: Rookery, datasource: str) -> list[tuple[list[str], list[str]]]:
    """The columns and reasons of the rows in quarantine, which are removed."""
    table = f"main.{datasource}_quarantine"
    rows = rookery.rows(f"SELECT c__error_column, c__error FROM {table}")
    rookery.run(f"TRUNCATE TABLE {table}")
    return [(list(columns), list(why)) for columns, why in rows]


@pytest.mark.parametrize("datasource", TYPES)
@pytest.mark.parametrize("key", KEYS, ids=range(len(KEYS)))
def test_only_strings_are_ids(rookery: Rookery, datasource: str, key: str) -> None:
    bad = [f'{{"id": "bad", {key}{value}}}' for value in OTHER_TYPES]
    result = append(rookery, datasource, "\n".join([*bad, f'{{"id": "good", {key}"{UUID}"}}']))
    assert (result.rows, result.quarantined) == (1, len(bad))
    assert stored(rookery, datasource) == [UUID]
    stored_tenants = reasons(rookery, datasource)
    assert [columns for columns, _ in stored_tenants] == [["tenant_id"]] * len(bad)
    if datasource != "uuid":
        assert all("not a string" in why for _, (why,) in stored_tenants)


@pytest.mark.parametrize(
    ("datasource", "row"),
    [("deep", '{{"id": "a", "of": {{"tenant": {}}}}}'), ("odd", '{{"id": "a", "tenant\\/id": {}}}')],
)
def test_at_a_path(rookery: Rookery, datasource: str, row: str) -> None:
    body = "\n".join(map(row.format, [*OTHER_TYPES, '"acme"']))
    result = append(rookery, datasource, body)
    assert (result.rows, result.quarantined) == (1, len(OTHER_TYPES))
    assert stored(rookery, datasource) == ["acme"]
    reasons(rookery, datasource)


def test_strings_that_look_like_other_types_are_ids(rookery: Rookery) -> None:
    ids = sorted(['{"a": 1}', "true", "17", "1.5", "[]", "null", "2026-01-02", "2026-01-02 10:00:00", "1" * 45])
    rows = [line(id="a", tenant_id=id).decode() for id in (False, *ids)]
    result = append(rookery, "text", "\n".join(rows))
    assert (result.rows, result.quarantined) == (len(ids), 1)
    assert stored(rookery, "text") == ids
    reasons(rookery, "text")


def test_null_is_missing(rookery: Rookery) -> None:
    result = append(rookery, "text", '{"id": "a", "tenant_id": null}\n{"id": "b", "tenant_id": 1}\n{"id": "c"}')
    assert (result.rows, result.quarantined) == (0, 3)
    assert sorted("missing" in why for _, (why,) in reasons(rookery, "text")) == [False, True, True]


def test_a_key_in_two_letter_cases_is_refused(rookery: Rookery) -> None:
    pairs = [('"a"', '"b"'), ('"a"', "1"), ("1", '"a"'), ("true", "false")]
    body = "\n".join(f'{{"id": "a", "tenant_id": {a}, "TENANT_ID": {b}}}' for a, b in pairs)
    result = append(rookery, "text", body)
    assert (result.rows, result.quarantined) == (0, len(pairs))
    assert all("2 times" in why for _, (why,) in reasons(rookery, "text"))


def test_integers_may_be_written_as_either(rookery: Rookery) -> None:
    body = "\n".join(f'{{"id": "a", "tenant_id": {v}}}' for v in ("7", '"8"', "7.0", "true", '{"a": 7}', "[7]"))
    result = append(rookery, "numbers", body)
    assert (result.rows, result.quarantined) == (2, 4)
    assert stored(rookery, "numbers") == ["7", "8"]
    reasons(rookery, "numbers")


def test_a_batch_of_several_tenants(rookery: Rookery) -> None:
    sent = [
        ("17", b'{"id": "a", "tenant_id": 17}'),
        ("17", b'{"id": "b", "tenant_id": "17"}'),
        ("true", b'{"id": "c", "tenant_id": true}'),
        ("true", b'{"id": "d"}'),
        ('{"a": 1}', b'{"id": "e", "tenant_id": {"a": 1}}'),
    ]
    answers = [a for a in results(rookery, appends("text", sent)) if isinstance(a, AppendResult)]
    assert [(a.rows, a.quarantined) for a in answers] == [(0, 1), (1, 0), (0, 1), (1, 0), (0, 1)]
    assert stored(rookery, "text") == ["17", "true"]
    assert all("not a string" in why for _, (why,) in reasons(rookery, "text"))


@pytest.mark.parametrize(
    "key", ["tenant_id", "tenant/id", "\u00fc", "\U0001f600", ":", 'a"b', "a\\b", "k"], ids=ascii
)
def test_no_spelling_of_a_key_is_missed(key: str) -> None:
    pattern = other_tenant_pattern(key)
    for spelled in spellings(key):
        assert json.loads(f'{{"{spelled}": 0}}').keys() <= {key, key.upper()}
        for value in ("5", "true", "{}", "[", "nul", "-1"):
            assert pattern.search(f'{{"{spelled}":{value}}}'.encode()), spelled
        for value in ('"a"', "null", " null ", '\t"5"'):
            assert not pattern.search(f'{{"{spelled}":{value}}}'.encode()), spelled


def spellings(key: str) -> list[str]:
    """A key in the forms that JSON allows."""
    plain = json.dumps(key, ensure_ascii=False)[1:-1]
    units = re.findall("....", key.encode("utf-16-be").hex())
    escaped = ["".join(rf"\u{change(unit)}" for unit in units) for change in (str.lower, str.upper)]
    return [
        plain,
        plain.replace("/", r"\/"),
        *escaped,
        *([plain.upper()] if key.isascii() and key.isidentifier() else []),
    ]
