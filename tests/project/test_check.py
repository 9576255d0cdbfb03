"""Rules across the files of a project."""

from __future__ import annotations

import pytest

from engine.errors import BAD_VALUE
from engine.project.check import check
from engine.project.datasource import Column
from engine.project.model import Project
from engine.project.parse import parse_source

EVENTS = """\
columns:
  - {name: tenant_id, type: String}
  - {name: at, type: DateTime}
  - {name: n, type: UInt64}
  - {name: maybe, type: Nullable(String)}
engine: {sorting_key: [tenant_id, at]}
tenant: tenant_id
"""
DAILY = """\
columns: [{name: tenant_id, type: String}, {name: day, type: Date}, {name: n, type: UInt64}]
engine: {type: SummingMergeTree, sorting_key: [tenant_id, day], columns: [n]}
tenant: {column: tenant_id, landing: false}
"""
PLAIN = "columns: [{name: a, type: String}, {name: v, type: Int8}]\n"
S = "sql: SELECT 1\n"


def project(**files: str) -> Project:
    return Project.of(parse_source(text, name, name) for name, text in files.items())


def found(**files: str) -> list[tuple[str, str]]:
    return [(p.code.id, str(p.place)) for p in check(project(**files))]


def test_a_valid_project_has_no_problems() -> None:
    per_tenant = S + "materialize: {target: daily, per_tenant: true, drop_tenant_column: true}"
    made = S + "materialize: {target: made, engine: {sorting_key: a}}"
    served = (
        "nodes: [{name: one, sql: a}, {name: two, sql: b}]\nendpoint: {node: one}\ntokens: [{name: t, scope: READ}]"
    )
    assert (
        found(events=EVENTS, daily=DAILY, a=per_tenant, b=per_tenant, c=made, d=served, e=S + "type: standard") == []
    )


def test_the_work_grows_with_the_number_of_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"c{n}" for n in range(300)]
    wide = project(wide="columns:\n" + "".join(f"  - {{name: {n}, type: String}}\n" for n in names))
    steps, calls = Column.steps.fget, 0  # type: ignore[attr-defined]

    def counted(column: Column) -> object:
        nonlocal calls
        calls += 1
        return steps(column)

    monkeypatch.setattr(Column, "steps", property(counted))
    assert list(check(wide)) == []
    assert calls < 10 * len(names)


@pytest.mark.proves("D13")
@pytest.mark.parametrize("key", ["[at, tenant_id]", "[]", "at", "[lower(tenant_id), at]"])
@pytest.mark.parametrize(
    "text", [EVENTS, EVENTS.replace("tenant: tenant_id", "tenant: {column: tenant_id, landing: false}")]
)
def test_the_tenant_column_is_first_in_the_sorting_key(text: str, key: str) -> None:
    (problem,) = check(project(events=text.replace("[tenant_id, at]", key)))
    assert (problem.code.id, str(problem.place)) == ("RK1012", "events:6:23")
    assert str(problem.hint).startswith("sorting_key: [tenant_id")
    assert key != "[at, tenant_id]" or problem.hint == "sorting_key: [tenant_id, at]"


def test_without_a_sorting_key_the_hint_suggests_one() -> None:
    (problem,) = check(project(events=EVENTS.replace("engine: {sorting_key: [tenant_id, at]}\n", "")))
    assert (problem.code.id, problem.hint) == ("RK1012", "sorting_key: [tenant_id]")


@pytest.mark.parametrize("type_", ["String", "LowCardinality( String )", "Int8", "UInt256", "Int64", "UUID"])
def test_types_of_tenant_columns(type_: str) -> None:
    assert found(events=EVENTS.replace("type: String", f"type: {type_}")) == []


@pytest.mark.parametrize(
    "type_",
    [
        "Nullable(String)",
        "LowCardinality(Nullable(String))",
        "FixedString(3)",
        "Date",
        "DateTime",
        "Float64",
        "Int7",
        "Enum8('a' = 1)",
        "Array(String)",
        "Decimal(9, 2)",
        "string",
        "IPv4",
        "Bool",
        "JSON",
        "Dynamic",
    ],
)
def test_other_types_are_refused(type_: str) -> None:
    text = EVENTS.replace("type: String", f'type: "{type_}"')
    assert ("RK1012", "events:2:29") in found(events=text)


EDITS: list[tuple[str, str, list[tuple[str, str]]]] = [
    ("tenant: tenant_id", "tenant: nope", [("RK1012", "events:7:9")]),
    ("type: String", "type: String, default: \"'x'\"", [("RK1012", "events:2:46")]),
    ("{sorting_key", "{type: ReplacingMergeTree, sorting_key", [("RK1014", "events:6:16")]),
    ("{sorting_key", "{type: AggregatingMergeTree, sorting_key", [("RK1014", "events:6:16")]),
    ("at]}", "at], partition_key: toYYYYMM(at)}", [("RK1014", "events:6:55")]),
    ("tenant: tenant_id", "tenant: tenant_id\nfinal: true", [("RK1014", "events:8:8")]),
    ("at]}", "at], ttl: at + INTERVAL 23 HOUR}", [("RK1014", "events:6:45")]),
    ("at]}", "at], ttl: at + toIntervalMinute(90)}", [("RK1014", "events:6:45")]),
    (
        "at]}",
        "at], ttl: 'at + INTERVAL 90 DAY, at + INTERVAL 1 HOUR DELETE WHERE n = 1'}",
        [("RK1014", "events:6:45")],
    ),
    ("at]}", "at], ttl: at + INTERVAL 1 DAY}", []),
    ("at]}", "at], primary_key: at}", [("RK1012", "events:6:53")]),
    ("at]}", "at], primary_key: '(tenant_id, at)'}", []),
    ("at]}", "at], primary_key: 'tenant_id, at'}", []),
    ("at]}", "at], primary_key: [tenant_id, at]}", []),
    ("at]}", "at], primary_key: [tenant_id]}", []),
    ("at]}", "at], primary_key: [at, tenant_id]}", [("RK1012", "events:6:53")]),
    ("at]}", "at], primary_key: []}", []),
    ("at]}", "at], primary_key: tuple()}", [("RK1012", "events:6:53")]),
    ("at]}", "at], settings: {index_granularity: 1}}", []),
    ("at]}", "at], settings: {enable_block_number_column: 0}}", [("RK1005", "events:6:50")]),
    ("at]}", "at], settings: {non_replicated_deduplication_window: 0}}", [("RK1005", "events:6:50")]),
    ("at]}", "at], settings: {part_minmax_index_columns: x}}", [("RK1005", "events:6:50")]),
    ("at]}", "nope]}", [("RK1009", "events:6:23")]),
    ("at]}", "maybe]}", [("RK1013", "events:6:23")]),
    ("at]}", "at, at]}", [("RK1013", "events:6:23")]),
    ("at]}", "at, nope(x)]}", []),
    ("name: n,", "name: at,", [("RK1007", "events:4:12")]),
    ("name: n,", "name: AT,", [("RK1007", "events:4:12")]),
    ("name: n,", "name: _block_number,", [("RK1006", "events:4:12")]),
    ("tenant: ", "indexes: [{name: i, expression: n, type: set(9)}]\ntenant: ", [("RK1012", "events:7:42")]),
    ("tenant: ", "indexes: [{name: i, expression: n, type: SET (9)}]\ntenant: ", [("RK1012", "events:7:42")]),
    ("tenant: ", "indexes: [{name: i, expression: n, type: minmax}]\ntenant: ", []),
    (
        "tenant: ",
        "indexes: [{name: i, expression: n, type: minmax}, {name: i, expression: n, type: minmax}]\ntenant: ",
        [("RK1007", "events:7:58")],
    ),
]


@pytest.mark.parametrize(("old", "new", "expected"), EDITS)
def test_limits_of_landing_datasources(old: str, new: str, expected: list[tuple[str, str]]) -> None:
    text = EVENTS.replace(old, new, 1)
    assert text != EVENTS
    assert found(events=text) == expected


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ("{type: ReplacingMergeTree, sorting_key: a, version: v, is_deleted: v}", []),
        ("{type: ReplacingMergeTree, is_deleted: v}", ["RK1005"]),
        ("{type: ReplacingMergeTree, version: nope}", ["RK1009"]),
        ("{version: v}", ["RK1005"]),
        ("CollapsingMergeTree", ["RK1005"]),
        ("{type: CollapsingMergeTree, sign: v}", []),
        ("{type: VersionedCollapsingMergeTree, sign: v}", ["RK1005"]),
        ("{type: VersionedCollapsingMergeTree, sign: v, version: v}", []),
        ("{type: SummingMergeTree, columns: v}", []),
        ("{type: SummingMergeTree, columns: [v, w]}", ["RK1009"]),
        ("{type: AggregatingMergeTree, columns: [v]}", ["RK1005"]),
        ("Null", []),
        ("{type: Null, sorting_key: a, ttl: b}", ["RK1005", "RK1005"]),
    ],
)
def test_options_of_engines(engine: str, expected: list[str]) -> None:
    assert [code for code, _ in found(x=f"{PLAIN}engine: {engine}")] == expected


def test_a_tenant_datasource_needs_an_engine_that_stores_rows() -> None:
    text = PLAIN + "engine: Null\ntenant: {column: a, landing: false}"
    assert found(x=text) == [("RK1012", "x:2:9")]


def test_a_set_index_is_allowed_without_a_tenant() -> None:
    assert found(x=PLAIN + "indexes: [{name: i, expression: a, type: set(9)}]") == []


@pytest.mark.parametrize("type_", ["AggregateFunction(sum, Int8)", "LowCardinality(Nullable(String))"])
def test_types_that_cannot_be_sorted(type_: str) -> None:
    assert [c for c, _ in found(x=f"columns: [{{name: a, type: '{type_}'}}]\nengine: {{sorting_key: a}}")] == [
        "RK1013"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nodes: [{name: n, sql: a}, {name: n, sql: b}]", [("RK1007", "p:1:35")]),
        ("nodes: [{name: events, sql: a}]", [("RK1007", "p:1:16")]),
        ("nodes: [{name: p, sql: a}]", [("RK1007", "p:1:16")]),
        ("nodes: [{name: m, sql: a}]\nmaterialize: {target: m, engine: MergeTree}", [("RK1007", "p:1:16")]),
        (S + "endpoint: {node: p_nod}", [("RK1010", "p:2:18")]),
        (S + "materialize: {target: daily, node: x}", [("RK1010", "p:2:36")]),
        (S + "endpoint: {}\nmaterialize: {target: daily}", [("RK1005", "p:3:14")]),
        (S + "type: endpoint\nmaterialize: {target: daily}", [("RK1005", "p:2:7")]),
        (S + "type: standard\nmaterialize: {target: daily}", [("RK1005", "p:2:7")]),
        (S + "type: standard\nendpoint: {}", [("RK1005", "p:2:7")]),
        (S + "type: materialized", [("RK1004", "p:2:7")]),
        (S + "type: standard\ntokens: [{name: a, scope: READ}]", [("RK1005", "p:3:9")]),
        (S + "materialize: {target: dayly}", [("RK1010", "p:2:23")]),
        (S + "materialize: {target: dayly, engine: MergeTree}", []),
        (S + "materialize: {target: Daily, engine: MergeTree}", [("RK1007", "p:2:23")]),
        (S + "materialize: {target: events}", [("RK1015", "p:2:23")]),
        (S + "materialize: {target: p}", [("RK1015", "p:2:23")]),
        (S + "materialize: {target: plain, per_tenant: true}", [("RK1015", "p:2:23")]),
        (S + "materialize: {target: daily, drop_tenant_column: true}", [("RK1005", "p:2:50")]),
        (S + "materialize: {target: daily, engine: MergeTree}", [("RK1015", "p:2:38")]),
        (S + "materialize: {target: new, engine: CollapsingMergeTree}", [("RK1005", "p:2:36")]),
        (S + "parameters: [{name: a}, {name: a}]", [("RK1007", "p:2:32")]),
        (S + "parameters: [{name: q}]", [("RK1006", "p:2:21")]),
        (S + "parameters: [{name: a, tenant_key: true}, {name: b, tenant_key: true}]", [("RK1005", "p:2:65")]),
        (S + "parameters: [{name: a, enum: [x], default: y}]", [("RK1005", "p:2:44")]),
        (S + "parameters: [{name: a, enum: [x, y], default: y}]", []),
    ],
)
def test_rules_for_pipes(text: str, expected: list[tuple[str, str]]) -> None:
    assert found(events=EVENTS, daily=DAILY, plain=PLAIN, p=text) == expected


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        ("{target: daily, per_tenant: true}", "{target: daily, per_tenant: true}", []),
        ("{target: daily, per_tenant: true}", "{target: daily}", [("RK1015", "b:2:14")]),
        (
            "{target: daily, per_tenant: true}",
            "{target: daily, per_tenant: true, drop_tenant_column: true}",
            [("RK1015", "b:2:68")],
        ),
        ("{target: new, engine: MergeTree}", "{target: new, engine: {type: MergeTree}}", []),
        ("{target: new, engine: MergeTree}", "{target: new, engine: {sorting_key: a}}", [("RK1015", "b:2:36")]),
    ],
)
def test_pipes_that_share_a_target_agree(one: str, two: str, expected: list[tuple[str, str]]) -> None:
    assert found(daily=DAILY, a=f"{S}materialize: {one}", b=f"{S}materialize: {two}") == expected


def test_a_target_created_by_one_of_two_pipes() -> None:
    with_engine, without = "{target: new, engine: MergeTree}", "{target: new}"
    assert found(a=f"{S}materialize: {with_engine}", b=f"{S}materialize: {without}") == []


def test_names_that_differ_only_in_case_are_refused() -> None:
    assert found(a=PLAIN, A=S) == [("RK1007", "A:1:1")] or found(a=PLAIN, A=S) == [("RK1007", "a:1:1")]


def test_every_problem_has_a_hint_and_a_place() -> None:
    broken = EVENTS.replace("at]}", "nope], type: SummingMergeTree, sign: x, partition_key: at}")
    for problem in check(project(events=broken, p=S + "type: materialized\nendpoint: {node: q}")):
        assert problem.hint, problem
        assert problem.place, problem
        assert problem.place.line, problem


def test_a_name_with_the_quarantine_suffix_is_refused() -> None:
    (problem,) = check(project(events_quarantine=PLAIN))
    assert problem.code.id == "RK1006"
    assert "quarantine tables" in problem.message


def test_fanout_modes_are_only_for_landing_datasources() -> None:
    text = DAILY.replace("landing: false", "landing: false, fanout: routed")
    assert found(daily=text) == [("RK1005", "daily:3:53")]


@pytest.mark.parametrize(
    ("columns", "wrong"),
    [
        ("{name: a, type: 'Map(String, UInt8)', json: $.p.a}", True),
        ("{name: a, type: 'Tuple(x UInt8)', json: $.p.a}", True),
        ("{name: a, type: 'Map(String, UInt8)', json: $.p}", False),
        ("{name: a, type: 'Array(UInt8)', json: '$.p.a[:]'}", False),
        ("{name: a, type: 'Nested(x UInt8)'}", True),
        ("{name: p, type: UInt8}, {name: a, type: UInt8, json: $.p.a}", True),
        ("{name: p, type: String}, {name: a, type: UInt8, json: $.p.a}", False),
        ("{name: p, type: JSON}, {name: a, type: UInt8, json: $.p.a}", False),
    ],
)
def test_json_paths_must_lead_to_values(columns: str, wrong: bool) -> None:
    assert [code for code, _ in found(x=f"columns: [{columns}]\n")] == [BAD_VALUE.id] * wrong


@pytest.mark.feature
def test_targets_of_pipes_cannot_be_strict() -> None:
    strict = PLAIN.rstrip() + "\nstrict: true\n"
    line = strict.count("\n")
    assert found(plain=strict) == []
    assert found(plain=strict, p=S + "materialize: {target: plain}") == [("RK1005", f"plain:{line}:9")]
