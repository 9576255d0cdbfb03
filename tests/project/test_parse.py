"""Parsing one file: its values, the places of its parts, and its errors."""

from __future__ import annotations

import pytest
import yaml

from engine import errors
from engine.errors import Problems, RookeryError
from engine.project.datasource import Datasource, Engine
from engine.project.model import Project
from engine.project.parse import parse_source
from engine.project.pipe import Pipe

EVENTS = """\
description: Events of everybody
columns:
  - {name: tenant_id, type: LowCardinality(String)}
  - name: at
    type: DateTime64(3)
    default: now64(3)
    codec: Delta, ZSTD(1)
    json: $.at
  - {name: flag, type: UInt8, default: no}
  - {name: day, type: Date, default: 2026-01-31}
  - {name: nothing, type: Nullable(Int8), default: null}
engine: {sorting_key: "tenant_id, toDate(at)", settings: {index_granularity: 4096}}
tenant: tenant_id
tokens: [{name: backend, scope: APPEND}]
"""


def datasource(text: str, name: str = "events") -> Datasource:
    resource = parse_source(text, f"datasources/{name}.yaml", name)
    assert isinstance(resource, Datasource)
    return resource


def pipe(text: str, name: str = "p") -> Pipe:
    resource = parse_source(text, f"pipes/{name}.yaml", name)
    assert isinstance(resource, Pipe)
    return resource


def problems(text: str, name: str = "x") -> list[RookeryError]:
    with pytest.raises(Problems) as caught:
        parse_source(text, "f.yaml", name)
    return caught.value.problems


def found(text: str, name: str = "x") -> list[tuple[str, str]]:
    return [(p.code.id, str(p.place)) for p in problems(text, name)]


def test_a_datasource_is_read_as_written() -> None:
    events = datasource(EVENTS)
    assert events.name == "events"
    assert events.text == EVENTS
    assert events.tenant_column == "tenant_id"
    assert events.is_landing
    assert events.sorting_key == ("tenant_id", "toDate(at)")
    assert events.engine.settings == (("index_granularity", "4096"),)
    assert [c.default for c in events.columns] == ["", "now64(3)", "no", "2026-01-31", "null"]
    at = events.column("at")
    assert at is not None
    assert at.json_path == "$.at"
    assert str(at.place) == "datasources/events.yaml:4:5"
    assert str(at.place_of("codec")) == "datasources/events.yaml:7:12"
    assert str(events.engine.place_of("sorting_key")) == "datasources/events.yaml:12:23"


def test_short_forms_equal_long_forms() -> None:
    columns = "columns: [{name: a, type: String}]\n"
    assert datasource(columns + "engine: Null") == datasource(columns + "engine: {type: Null}")
    long = datasource(columns + "tenant: {column: a, landing: true}")
    short = datasource(columns + "tenant: a")
    assert short == long
    assert hash(short) == hash(long)
    assert str(short.tenant and short.tenant.place_of("column")) == "datasources/events.yaml:2:9"
    assert pipe("sql: SELECT 1") == pipe("nodes: [{name: p_node, sql: SELECT 1}]")
    assert datasource(columns).engine == Engine()


def test_equality_ignores_places() -> None:
    assert pipe("sql: SELECT 1") == pipe("# comment\nsql: |\n  SELECT 1\n")
    assert pipe("sql: SELECT 1") != pipe("sql: SELECT 2")
    assert pipe("sql: SELECT 1", "a") != pipe("sql: SELECT 1", "b")


def test_kinds_of_pipes() -> None:
    nodes = "nodes: [{name: a, sql: SELECT 1}, {name: b, sql: SELECT 2}]\n"
    plain = pipe(nodes)
    assert (plain.kind, plain.published and plain.published.name) == ("endpoint", "b")
    chosen = pipe(nodes + "endpoint: {node: a, limits: {max_memory: 512MiB, max_seconds: 0.5, max_rows: 7}}")
    assert chosen.published is chosen.nodes[0]
    assert (chosen.limits.max_memory, chosen.limits.max_seconds, chosen.limits.max_rows) == (2**29, 0.5, 7)
    view = pipe(nodes + "materialize: {target: t}")
    assert (view.kind, view.published, view.materialized) == ("materialized", None, view.nodes[1])
    assert pipe(nodes + "type: standard").published is None
    assert pipe(nodes + "endpoint: {node: c}").published is None


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("7B", 7), ("2 KB", 2000), ("2kib", 2048), ("1MiB", 2**20), ("3 GiB", 3 * 2**30)]
)
def test_sizes(text: str, size: int) -> None:
    assert pipe("sql: a\nendpoint: {limits: {max_memory: " + text + "}}").limits.max_memory == size


@pytest.mark.parametrize(
    ("text", "spots"),
    [
        ("sql: |\n  SELECT\n\n    nope\n", [(1, 1, "2:3"), (3, 5, "4:7"), (2, 1, "3:3")]),
        ("sql: |2\n    SELECT\n  nope\n", [(1, 3, "2:5"), (2, 1, "3:3")]),
        ("sql: |-  # why\n\n  SELECT 1\n", [(2, 1, "3:3")]),
        ("sql: >\n  SELECT\n  a\n\n  nope\n", [(1, 1, "2:3"), (1, 8, "3:3"), (2, 1, "5:3")]),
        ("sql: SELECT nope", [(1, 8, "1:13")]),
        ("sql: SELECT\n  a,\n  nope", [(1, 8, "2:3"), (1, 11, "3:3")]),
        ("sql: 'SELECT ''a'', nope'", [(1, 8, "1:15"), (1, 13, "1:21")]),
        ('sql: "SELECT nope"', [(1, 8, "1:14")]),
        ('sql: "SELECT \\u0041, nope"', [(1, 8, "1:14"), (1, 11, "1:6")]),
        ("nodes:\n- name: n\n  sql: |\n   SELECT\n     nope\n", [(2, 3, "5:6")]),
        ("sql: |\r\n  SELECT\r\n    nope\r\n", [(2, 3, "3:5")]),
        ("sql: SELECT 1", [(1, 99, "1:14"), (9, 9, "1:14")]),
    ],
)
def test_a_position_in_the_sql_is_found_in_the_file(text: str, spots: list[tuple[int, int, str]]) -> None:
    node = pipe(text).nodes[0]
    assert [str(node.position(line, column)) for line, column, _ in spots] == [f"pipes/p.yaml:{x}" for *_, x in spots]
    assert node.place == node.position(1, 1)


def test_all_problems_of_a_file_are_found_at_once_and_in_order() -> None:
    text = """\
colums: 1
columns:
  - {name: tenant_id}
  - name: a
    typ: Int64
    type: Int64
  - {name: "1b", type: UInt8, json: x}
  - [a, b]
engine: {type: mergetree, sorting_key: "a, (b"}
tokens:
  - {name: t, scope: read}
final: yes
final: true
indexes:
"""
    assert found(text) == [
        ("RK1003", "f.yaml:1:1"),
        ("RK1004", "f.yaml:3:5"),
        ("RK1003", "f.yaml:5:5"),
        ("RK1006", "f.yaml:7:12"),
        ("RK1005", "f.yaml:7:37"),
        ("RK1005", "f.yaml:8:5"),
        ("RK1005", "f.yaml:9:16"),
        ("RK1013", "f.yaml:9:40"),
        ("RK1005", "f.yaml:11:22"),
        ("RK1005", "f.yaml:12:8"),
        ("RK1002", "f.yaml:13:1"),
        ("RK1005", "f.yaml:14:9"),
    ]
    hints = {str(p.place): p.hint for p in problems(text)}
    assert hints["f.yaml:1:1"] == "did you mean `columns`?"
    assert hints["f.yaml:9:16"] == "did you mean `MergeTree`?"
    assert hints["f.yaml:13:1"] == "it first occurs on line 12"


C = "columns: [{name: a, type: String}]\n"
S = "sql: SELECT 1\n"


@pytest.mark.parametrize(
    ("text", "code", "place", "keyword"),
    [
        ("", "RK1001", "1:1", "the file is empty"),
        ("# only a comment\n", "RK1001", "1:1", "the file is empty"),
        ("---\n", "RK1017", "2:1", "mapping"),
        ("\ufeffsql: SELECT 1", "RK1001", "1:1", "the file begins with a byte order mark"),
        ("sql: a\x00b", "RK1001", "1:7", "character U+0000 is not allowed in a file"),
        ("a: b\nsql: a\u2028b", "RK1001", "2:7", "character U+2028 is not allowed in a file"),
        ("sql: a\rb", "RK1001", "1:7", "character U+000D is not allowed in a file"),
        ('sql: "\\ud800"', "RK1001", None, None),
        ('sql: "\\UFFFFFFFF"', "RK1001", None, None),
        ("nodes:\n\t- name: a", "RK1001", "2:1", None),
        ("sql: a: b", "RK1001", "1:7", "not valid YAML: mapping values are not allowed in this context"),
        ("sql: 'a", "RK1001", None, None),
        ("sql: [", "RK1001", None, None),
        ("sql: &a SELECT 1", "RK1001", "1:6", "anchors and aliases are not supported"),
        ("sql: *a", "RK1001", "1:6", "anchors and aliases are not supported"),
        ("sql: !!python/object:os.system x", "RK1001", "1:6", "tags such as !!str are not supported"),
        (S + "---\n" + S, "RK1001", "2:1", "second document"),
        ("? [a]\n: b", "RK1001", "1:3", "a key must be a string"),
        ("a: " + "[" * 30 + "]" * 30, "RK1001", "1:23", "more than 20"),
        ("[" * 200_000, "RK1001", "1:21", "more than 20"),
        ("a: [" + "a," * 200_000 + "]", "RK1001", None, "more than 100000 values"),
        ("x" * (1024 * 1024 + 1), "RK1001", "1:1", "the file is larger than 1 MiB"),
        ("just text", "RK1017", "1:1", "mapping"),
        ("- a", "RK1017", "1:1", "mapping"),
        ("node: []", "RK1017", "1:1", "neither a datasource nor a pipe"),
        (C + S, "RK1017", "1:1", "the file has both `columns` and a query"),
        ("nodes: []\n" + S, "RK1017", "1:1", "the file has both `nodes` and `sql`"),
        ("columns: []", "RK1005", "1:10", "`columns` must not be empty"),
        ("columns: a", "RK1005", "1:10", "`columns` must be a list, not `a`"),
        ("columns: [a]", "RK1005", "1:11", "an item of `columns` must be a mapping, not `a`"),
        ("columns: [{name: [a], type: String}]", "RK1005", "1:18", "`name` must be a string"),
        ("columns: [{name: a, type: '  '}]", "RK1005", "1:27", "`type` is empty"),
        ("columns: [{name: a, type: String, default: ''}]", "RK1005", "1:44", "`default` is empty"),
        ("columns: [{name: _rk_a, type: String}]", "RK1006", "1:18", "`_rk_a`"),
        (C + "name: x", "RK1003", "2:1", "unknown key `name`"),
        (C + "nodes2: x", "RK1003", "2:1", "unknown key `nodes2`"),
        (C + "engine: [a]", "RK1005", "2:9", "`engine` must be a mapping, not a list"),
        (C + "engine: Null2", "RK1005", "2:9", None),
        (C + "engine: {columns: [a, [b]]}", "RK1005", "2:23", None),
        (C + "engine: {primary_key: [[a]]}", "RK1005", "2:23", "`primary_key` must be a string"),
        (C + "engine: {primary_key: ' '}", "RK1005", "2:23", "`primary_key` is empty"),
        (C + "engine: {partition_key: ['a, b']}", "RK1013", "2:25", "single expression"),
        (C + "engine: {settings: {a: [b]}}", "RK1005", "2:20", "value for `a`"),
        (C + "engine: {settings: {A: 1}}", "RK1005", "2:20", "`A`"),
        (C + "engine: {settings: {disk: 'disk(type=s3)'}}", "RK1005", "2:20", None),
        (C + "engine: {settings: x}", "RK1005", "2:20", "`settings` must be a mapping"),
        (C + "tenant: {landing: no, column: a}", "RK1005", "2:19", "`landing` must be true or false, not `no`"),
        (C + "tenant: {landing: true}", "RK1004", "2:9", "key `column` is missing in `tenant`"),
        (C + "indexes: [{name: i, expression: a, type: 'minmax, INDEX j'}]", "RK1005", "2:42", None),
        (C + "indexes: [{name: i, expression: a, type: minmax, granularity: 0}]", "RK1005", "2:63", None),
        (C + "tokens: [{name: '', scope: READ}]", "RK1006", "2:17", "`name` must be a short text"),
        (S + "tokens: [{name: a, scope: APPEND}]", "RK1005", "2:27", "`scope` must be one of READ, not `APPEND`"),
        ("sql: ''", "RK1005", "1:6", "`sql` is empty"),
        ("sql:", "RK1005", "1:5", "`sql` has no value"),
        ("sql: [a]", "RK1005", "1:6", "`sql` must be a string"),
        ("nodes: [{name: rk_a, sql: a}]", "RK1006", "1:16", "`rk_a`"),
        ("nodes: [{name: System, sql: a}]", "RK1006", "1:16", "`System` is a reserved word"),
        (S + "endpoint: {limits: {max_rows: 1e3}}", "RK1005", "2:31", "`max_rows` must be a whole number, not `1e3`"),
        (S + "endpoint: {limits: {max_rows: 99999999999999999999}}", "RK1005", "2:31", None),
        (S + "endpoint: {limits: {max_seconds: nan}}", "RK1005", "2:34", None),
        (S + "endpoint: {limits: {max_seconds: 0}}", "RK1005", "2:34", None),
        (S + "endpoint: {limits: {max_memory: 1 TB}}", "RK1005", "2:33", None),
        (S + "endpoint: {limits: {max_memory: 1iB}}", "RK1005", "2:33", None),
        (S + "endpoint: {limits: {max_memory: 9999999999 GiB}}", "RK1005", "2:33", None),
        (S + "endpoint: {limits: {max_memory: ٣}}", "RK1005", "2:33", None),
        (S + "materialize: {engine: Null}", "RK1004", "2:14", "key `target` is missing in `materialize`"),
        (S + "parameters: [{name: a, enum: x}]", "RK1005", "2:30", "`enum` must be a list, not `x`"),
        (S + "parameters: [{name: a, enum: [x, [y]]}]", "RK1005", "2:34", None),
        (S + "type: Endpoint", "RK1005", "2:7", None),
    ],
)
def test_every_mistake_has_a_code_and_a_place(text: str, code: str, place: str | None, keyword: str | None) -> None:
    (problem,) = problems(text)
    assert problem.code.id == code
    assert place is None or str(problem.place) == f"f.yaml:{place}"
    assert keyword is None or keyword in problem.message
    assert problem.place is not None
    assert problem.place.line is not None
    assert "pydantic" not in str(problem)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "1a",
        "a-b",
        "a b",
        "a.b",
        "ä",
        "a\n",
        "_rk_a",
        "rk_a",
        "RK_a",
        "Default",
        "_",
        "__",
        "_rk1_a",
        "_RK_a",
        "a" * 121,
    ],
)
def test_a_file_with_an_invalid_name_is_refused(name: str) -> None:
    (problem,) = problems("sql: SELECT 1", name)
    assert problem.code is errors.BAD_NAME
    assert "rename the file" in str(problem.hint)


def test_the_short_form_works_with_the_longest_name() -> None:
    assert len(pipe("sql: SELECT 1", "a" * 120).nodes[0].name) <= 120


def test_two_resources_with_the_same_name() -> None:
    one, two = datasource(EVENTS, "a"), pipe("sql: SELECT 1", "a")
    with pytest.raises(Problems) as caught:
        Project.of([one, two])
    assert caught.value.code is errors.DUPLICATE_NAME
    assert "datasources/a.yaml" in str(caught.value.hint)


def test_a_project_can_be_merged_over_another() -> None:
    deployed = Project.of([datasource(EVENTS, "a"), datasource(EVENTS, "b")])
    files = Project.of([pipe("sql: SELECT 1", "a")])
    merged = deployed.merged(files)
    assert (list(merged.datasources), list(merged.pipes)) == (["b"], ["a"])
    assert merged.get("a") == files.pipes["a"]
    assert merged.get("c") is None


def test_both_yaml_parsers_give_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [EVENTS, "sql: |\n  a\n\n  b\n", "sql: >\n  a\n   b\n", "sql: 'a\n\n  b'", "nodes: [{name: a, sql: b}]"]
    fast = [parse_source(text, "f", "x") for text in texts]
    monkeypatch.setattr("engine.project.source._LOADER", yaml.SafeLoader)
    slow = [parse_source(text, "f", "x") for text in texts]
    assert fast == slow
    for a, b in zip(fast, slow, strict=True):
        assert a.place == b.place
        if isinstance(a, Pipe) and isinstance(b, Pipe):
            assert a.nodes[0].position(1, 2) == b.nodes[0].position(1, 2)


def test_an_unquoted_type_with_a_comma_has_a_hint() -> None:
    (problem,) = problems("columns: [{name: a, type: Decimal(9, 2)}]")
    assert problem.code.id == "RK1005"
    assert "needs quotes" in str(problem.hint)


@pytest.mark.parametrize(
    ("text", "keyword"),
    [
        ("engine:\n\tsorting_key: a\n", "tabs"),
        ("sql: {{ String(a) }}\n", "block"),
    ],
    ids=["tab", "template"],
)
def test_frequent_mistakes_have_a_hint(text: str, keyword: str) -> None:
    assert any(keyword in str(problem.hint) for problem in problems(text))
