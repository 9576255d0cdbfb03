"""Definitions that the engine refuses are reported at their place, with a code and a hint, before anything is created.

The cases put one bad value under each key of a file, and look for the error at that value.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing

import pytest

from engine.errors import RookeryError
from engine.ingest.gateway import Gateway
from engine.ingest.staging_pool import StagingPool
from engine.warehouse.port import Input
from engine.workspace.snapshot import parse_sources
from engine.workspace.workspace import Workspace
from tests.support.compiling import BASE, EVENTS, problems_of, pushed, sources
from tests.support.soak import soaking

BAD = {
    "type": ("LowCardinality(UInt8)", "FixedString(1000)", "Strin", "Decimal(99,2)", "Nullable(Array(String))"),
    "default": (
        "nosuch + 1", "'abc'", "sum(id)", "(SELECT 1)", "arrayJoin([1])", "nosuch(1)", "1 +", "'[1]'", "toUUID('abc')",
    ),
    "codec": ("NOPE", "ZSTD(99)", "Delta", "'NONE, LZ4'", "'Delta(3), LZ4'", "'LZ4) TTL now('", "ZSTD(1", "'LZ4 LZ4'"),
    "sorting_key": ("[id, v]", "[id, j]", "[id, nosuch]", "[id, n]", "[id, rand()]", "[id, '1']", "[id, toString(n)]", "[id, file('x')]"),
    "primary_key": ("s", "nosuch", "id +", "file('x')"),
    "partition_key": ("nosuch", "now()", "f", "v", "j", "sum(id)", "id +", "file('x')"),
    "sampling_key": ("s", "nosuch", "cityHash64(s)", "id +"),
    "ttl": ("s", "nosuch", "now()", "v + INTERVAL 1 DAY", "d +", "file('x')"),
    "settings": (
        "{nosuch: 1}", "{index_granularity: 0}", "{index_granularity: many}", "{fsync_after_insert: 2}", "{readonly: 1}",
        "{storage_policy: nosuch}", "{index_granularity_bytes: 10}", "{add_minmax_index_for_numeric_columns: 1}",
        "{deduplicate_merge_projection_mode: nosuch}",
    ),
    "ReplacingMergeTree, version": ("s", "nosuch", "v"),
    "ReplacingMergeTree, version: id, is_deleted": ("s", "id"),
    "CollapsingMergeTree, sign": ("s", "id", "nosuch"),
    "VersionedCollapsingMergeTree, sign: i, version": ("s", "nosuch"),
    "VersionedCollapsingMergeTree, version: id, sign": ("s", "nosuch"),
    "SummingMergeTree, columns": ("[nosuch]", "[id]"),
}  # fmt: skip
INDEXES = ("foo", "bloom_filter(7)", "ngrambf_v1(3)", "minmax")
COLUMNS = """columns:
  - {name: id, type: UInt32}
  - {name: s, type: String}
  - {name: f, type: Float64}
  - {name: i, type: Int8}
  - {name: d, type: Date}
  - {name: n, type: Nullable(String)}
  - {name: j, type: JSON}
  - {name: v, type: "Variant(String, UInt8)"}
"""
SELECTED = """sql: |
  SELECT units::UInt32 AS id, kind AS s, units AS f, 1::Int8 AS i, toDate(at) AS d, NULL::Nullable(String) AS n,
    '{}'::JSON AS j, kind::Variant(String, UInt8) AS v FROM events WHERE tenant_id = 1
materialize:
  target: of_a_pipe
"""


def in_engine(key: str, bad: str, indent: str) -> str:
    """An engine with a bad value at the end of a line of its own."""
    kind, _, key = key.rpartition("MergeTree, ")
    lines = [f"type: {kind}MergeTree", *(x for x in key.split(", ")[:-1]), f"{key.split(', ')[-1]}: {bad}  # bad"]
    lines += [] if key == "sorting_key" else ["sorting_key: id"]
    return "".join(f"{indent}{line}\n" for line in lines)


def cases() -> Iterator[tuple[str, str, str]]:
    """What is wrong, the name of the file, and its text."""
    for key, values in BAD.items():
        for bad in values:
            if key in ("type", "default", "codec"):
                column = {"name": "x", "type": "Int32", key: bad}
                written = "".join(f"    {k}: {v}{'  # bad' * (v is bad)}\n" for k, v in column.items())
                lines = written.replace("    ", "  - ", 1)
                yield f"{key}: {bad}", "written", f"{COLUMNS}{lines}engine: {{sorting_key: id}}\n"
            else:
                yield f"{key}: {bad}", "written", f"{COLUMNS}engine:\n{in_engine(key, bad, '  ')}"
                # A pipe's engine is checked in the same way. Outside of `make soak`, one value of each key.
                if bad is values[0] or soaking():
                    yield f"{key}: {bad}", "a_pipe", f"{SELECTED}  engine:\n{in_engine(key, bad, '    ')}"
    for bad in INDEXES:
        index = f"indexes:\n  - name: x\n    expression: {'j' if bad == 'minmax' else 's'}\n    type: {bad}  # bad\n"
        yield f"index: {bad}", "written", f"{COLUMNS}engine: {{sorting_key: id}}\n{index}"


def test_each_refused_part_has_a_place_a_code_and_a_hint(workspace: Workspace) -> None:
    wrong = {}
    for what, name, text in cases():
        line = 1 + next(n for n, written in enumerate(text.split("\n")) if written.endswith("# bad"))
        problems = problems_of(workspace, {"events": EVENTS, name: text})
        at_place = [str(p) for p in problems if p.place and (p.place.file, p.place.line) == (f"{name}.yaml", line)]
        silent = [str(p) for p in problems if not p.hint and p.code.id not in ("RK2001", "RK2003", "RK1016")]
        noise = [
            x for x in map(str, problems) if "_tmp_alter" in x or "_block_number" in x or "RK6004" in x or "\n" in x
        ]
        if len(at_place) != len(problems) or not problems or silent or noise:
            wrong[what, name] = (line, [str(p) for p in problems])
    assert wrong == {}


def test_names_and_defaults_that_no_row_could_use_are_refused(workspace: Workspace) -> None:
    """Datasources that were deployed before stay, until their file changes."""
    text = """columns:
  - {name: id, type: UInt32}
  - {name: NULL, type: UInt32, json: $.m.null}
  - {name: not, type: UInt32}
  - {name: x, type: UInt32, default: "null"}
  - {name: y, type: "LowCardinality(Nullable(String))", default: "NULL"}
  - {name: distinct, type: UInt32}
  - {name: top, type: UInt32, default: distinct + 1}
engine: {sorting_key: id}
""".replace("name: NULL", "name: 'NULL'")
    (quoted,) = problems_of(workspace, {"named": text})
    assert (quoted.code.id, quoted.place and quoted.place.line) == ("RK2002", 8) and "`distinct`" in str(quoted.hint)
    text = text.replace("distinct + 1", '"`distinct` + 1"')
    problems = problems_of(workspace, {"named": text})
    assert [(p.place.line, p.code.id) for p in problems if p.place] == [(3, "RK1006"), (4, "RK1006"), (5, "RK2007")]
    assert "json: $.m" in str(problems[0].hint)
    project = parse_sources(sources({"named": text}))
    for tolerated in (None, frozenset({"named"})):
        assert workspace.compile(project, tolerated=tolerated).datasources


def test_columns_that_are_named_like_keywords(workspace: Workspace) -> None:
    """In defaults, keys, indexes, views and queries, in any row."""
    names = ["as", "select", "from", "interval", "case", "cast", "all", "distinct", "in", "with", "array", "top"]
    columns, keys = ["  - {name: id, type: UInt32}"], ["id"]
    for name in names:
        columns += [
            f"  - {{name: '{name}', type: UInt32, json: $.m.{name}}}",
            f"  - {{name: a_{name}, type: UInt32, default: '`{name}` + 1', json: $.m.a_{name}}}",
            f"  - {{name: b_{name}, type: UInt32, default: '`{name}`'}}",
        ]
        keys.append(f"'`{name}` % 7'")
    indexes = [f"  - {{name: i_{n}, expression: '`{n}` + 1', type: minmax}}" for n in names]
    head = "\n".join(["columns:", *columns, f"engine: {{sorting_key: [{', '.join(keys)}]}}", ""])
    selected = ", ".join(f"`{n}`, sent.`{n}` AS a_{n}, `{n}` AS b_{n}" for n in names)
    files = {
        "sent": head + "\n".join(["indexes:", *indexes, ""]),
        "taken": head,
        "view": f"sql: SELECT id, {selected} FROM sent WHERE `{names[0]}` > 0\nmaterialize: {{target: taken}}\n",
        "asked": f"sql: SELECT {', '.join(f'`{n}`' for n in names)} FROM taken ORDER BY `{names[0]}`\n",
    }
    pushed(workspace, files)
    good, bad = ({"id": 1, "m": dict.fromkeys(names, value)} for value in (5, "x"))
    with closing(Gateway(workspace, StagingPool(workspace))) as gateway:
        for rows in ([good], [good, bad]):
            body = "\n".join(map(json.dumps, rows)).encode()
            assert gateway.append("sent", body, Input.NDJSON).result(60).rows == 1
    for table, copied in (("sent", 6), ("taken", 5)):
        (first, second) = workspace.warehouse.query(f"SELECT * EXCEPT id FROM main.{table}").rows
        assert [*first] == [*second] == [5, copied, 5] * len(names)
    pushed(workspace, {}, *files, prune=True)


def test_all_refused_parts_are_reported_at_once(workspace: Workspace) -> None:
    text = """columns:
  - {name: a, type: UInt32, default: "'x'"}
  - {name: b, type: UInt32, codec: NOPE}
  - {name: c, type: UInt32, default: "c + 1", codec: ZSTD(99)}
engine: {sorting_key: a, ttl: a, settings: {nosuch: 1}}
"""
    problems = problems_of(workspace, {"several": text})
    assert [(p.place.line, p.code.id) for p in problems if p.place] == [
        (2, "RK2007"), (4, "RK2007"), (3, "RK2007"), (4, "RK2007"), (5, "RK2007"), (5, "RK2007"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("[1, 2] AS day, units", "Array(UInt8)"),
        ("toDate(at) AS day, map('a', units) AS units", "Map(String, Float64)"),
        ("toDate(at) AS day, NULL AS units", "Nullable(Nothing)"),
        ("toDate(at) AS day, tuple(1, 2) AS units", "Tuple(UInt8, UInt8)"),
    ],
)
def test_an_output_that_no_insert_could_convert_is_refused(workspace: Workspace, sql: str, why: str) -> None:
    sums = f"sql: |\n  SELECT tenant_id, {sql} FROM events\nmaterialize: {{target: daily, per_tenant: true}}\n"
    (problem,) = problems_of(workspace, {**BASE, "sums": sums})
    assert (problem.code.id, str(problem.place)) == ("RK2011", "sums.yaml:2:3")
    assert why in problem.message
    assert problem.hint


@pytest.mark.parametrize(
    "part",
    ["engine: {sorting_key: [tenant_id, x], partition_key: tenant_id}",
     "engine: {sorting_key: [tenant_id, x], ttl: toDateTime(tenant_id) + INTERVAL 1 DAY}",
     "engine: {sorting_key: [tenant_id, x]}\nindexes: [{name: i, expression: tenant_id, type: minmax}]"],
)  # fmt: skip
def test_definitions_impossible_in_nests_are_refused_before_a_tenant_is_added(
    workspace: Workspace, part: str
) -> None:
    target = f"""tenant: {{column: tenant_id, landing: false}}
columns:
  - {{name: tenant_id, type: UInt32}}
  - {{name: x, type: String}}
{part}
"""
    pipe = (
        "sql: SELECT tenant_id, kind AS x FROM events\n"
        "materialize: {target: narrow, per_tenant: true, drop_tenant_column: true}\n"
    )
    (problem,) = problems_of(workspace, {**BASE, "narrow": target, "fills": pipe})
    assert problem.place
    assert (problem.place.file, problem.place.line) == ("narrow.yaml", 5 + part.count("\n"))
    assert "drop_tenant_column" in (problem.hint or "")


def test_changes_that_the_engine_refuses_are_found_before_the_first_step(workspace: Workspace) -> None:
    pushed(workspace, {"changing": EVENTS})
    for old, new, line in (
        ("type: UInt32", "type: UInt64", 4),
        ("at, type: DateTime", "at, type: DateTime64(3)", 5),
        ("kind, type: String", 'kind, type: "Map(String, String)"', 6),
    ):
        text = EVENTS.replace(old, new).replace("units", "more")
        for dry_run in (True, False):
            with pytest.raises(RookeryError) as caught:
                pushed(workspace, {"changing": text}, "changing", dry_run=dry_run)
            error = caught.value
            assert (error.code.id, error.place and error.place.line) == ("RK2030", line), error
            assert error.hint
    assert not pushed(workspace, {"changing": EVENTS}, dry_run=True).plan


def test_settings_are_changed_in_the_existing_table(workspace: Workspace) -> None:
    def stored() -> str:
        query = "SELECT engine_full FROM system.tables WHERE database = 'main' AND name = 'tuned'"
        return str(workspace.warehouse.query(query).rows[0][0])

    declared = EVENTS.replace("at]}", "at], settings: {%s}}")
    pushed(workspace, {"tuned": EVENTS})
    own = stored()
    for setting in ("min_bytes_for_wide_part: 1000", "min_bytes_for_wide_part: 2000"):
        plan = pushed(workspace, {"tuned": declared % setting}).plan
        assert [(s.action, s.destructive) for s in plan.steps] == [("ChangeClause", False)]
        assert setting.replace(":", " =") in stored()
    with pytest.raises(RookeryError) as caught:
        pushed(workspace, {"tuned": declared % "index_granularity: 64"})
    assert caught.value.code.id == "RK2030"
    assert "min_bytes_for_wide_part" in stored()
    pushed(workspace, {"tuned": EVENTS})
    assert stored() == own


def test_a_setting_that_was_deployed_without_its_table_does_not_stop_other_pushes(workspace: Workspace) -> None:
    """Earlier versions ignored a setting that was added to a deployed file."""
    pushed(workspace, {"behind": EVENTS})
    text = EVENTS.replace("at]}", "at], settings: {index_granularity: 64, min_bytes_for_wide_part: 3}}")
    workspace.registry.write("resource", {"behind": {"text": text, "file": "behind.yaml"}})
    result = pushed(workspace, {"other": EVENTS})
    assert [w.code.id for w in result.warnings] == ["RK2030"]
    changed = [s.reason for s in result.plan.steps if s.action == "ChangeClause"]
    assert changed == ["setting min_bytes_for_wide_part = 3"]


TEMPLATED = "sql: SELECT tenant_id, at, kind, units FROM events WHERE kind = {{ String(kind, 'a') }}\n"
READING = {
    "first": "SELECT tenant_id, toDate(at) AS day, sum(units) AS units FROM some GROUP BY tenant_id, day",
    "behind a pipe": "SELECT tenant_id, toDate(at) AS day, sum(units) AS units FROM between GROUP BY tenant_id, day",
    "in a subquery": "SELECT tenant_id, toDate(at) AS day, units FROM (SELECT * FROM some)",
    "in a join": "SELECT tenant_id, toDate(events.at) AS day, events.units AS units FROM events JOIN some USING (tenant_id)",
    "in a condition": "SELECT tenant_id, toDate(at) AS day, units FROM events WHERE tenant_id = 1 AND kind IN (SELECT kind FROM some)",
}


@pytest.mark.parametrize("per_tenant", [True, False])
@pytest.mark.parametrize("where", READING)
def test_the_error_for_a_view_over_a_template_names_it(workspace: Workspace, where: str, per_tenant: bool) -> None:
    view = f"sql: |\n  {READING[where]}\nmaterialize: {{target: daily, per_tenant: {str(per_tenant).lower()}}}\n"
    files = {**BASE, "some": TEMPLATED, "between": "sql: SELECT * FROM some\n", "sums": view}
    (problem,) = problems_of(workspace, files)
    assert (problem.code.id, problem.place and problem.place.file) == ("RK2009", "sums.yaml"), str(problem)
    assert "`some`" in problem.message and "`some_node` is a template" in problem.message
    assert "pipe without a template" in (problem.hint or "")
