"""Writing and updating project files."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from engine.errors import Problems, RookeryError
from engine.project.check import check
from engine.project.datasource import Column, Datasource, DatasourceToken, Engine, Index, Tenant
from engine.project.fields import RESERVED
from engine.project.model import Project
from engine.project.parse import parse_source
from engine.project.pipe import Endpoint, Limits, Materialize, Node, Parameter, Pipe, PipeToken
from engine.project.schema_json import json_schema
from engine.project.write import render_datasource, render_pipe, update_pipe
from tests.support.soak import soak_rounds

NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,12}", fullmatch=True).filter(
    lambda x: x.lower() not in RESERVED and not x.lower().startswith("rk_")
)
TEXTS = st.one_of(
    st.sampled_from(
        [
            *("true", "no", "null", "~", "1", "1e3", "2026-01-01", "a: b", "- a"),
            *("#x", "a #b", "'", '"', "{a}", "[", "%", "|", "a\nb"),
            *(" a", "a ", "\ta", "a\n\n  b\n", "\n\n x", "a  \nb", "=", "<<", "&a"),
            *("*a", "!a", "?", "\r\n", "\u0085", "\u2028", "\ufeff", "\u0000", "é"),
            *("🐦", "\\", "a\\nb", "''", "\u00a0", "@a", "`a`", "---\na", "..."),
            *("a\n---\nb"),
        ]
    ),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=30),
    st.text("ab \n\t#:-'\"|>{}[],", max_size=30),
)
FILLED = TEXTS.filter(lambda x: bool(x.strip()))
FLAGS = st.booleans()


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def several(strategy: st.SearchStrategy[Any], least: int = 0) -> st.SearchStrategy[Any]:
    return st.lists(strategy, min_size=least, max_size=3).map(tuple)


KEYS = several(st.sampled_from(["a", "toDate(b)", "(a, b)", "`x y`", "'a,b'", "cityHash64(a, b) % 7"]))
ENGINES = st.builds(
    Engine,
    type=st.sampled_from(["MergeTree", "SummingMergeTree", "Null"]),
    sorting_key=KEYS,
    partition_key=TEXTS,
    ttl=TEXTS,
    columns=KEYS,
    settings=st.dictionaries(st.sampled_from(["a", "b_c"]), st.sampled_from(["1", "x", "1.5", "007"])),
)
DATASOURCES = st.builds(
    Datasource,
    name=NAMES,
    description=TEXTS,
    columns=several(
        st.builds(
            Column,
            name=NAMES,
            type=FILLED,
            default=TEXTS,
            codec=TEXTS,
            description=TEXTS,
            json=st.sampled_from(["", "$.a", "$['x y'][:]"]),
        ),
        1,
    ),
    engine=ENGINES,
    indexes=several(
        st.builds(Index, name=NAMES, expression=FILLED, type=st.just("minmax"), granularity=st.integers(1, 9))
    ),
    tenant=maybe(st.builds(Tenant, column=NAMES, landing=FLAGS, nest_copy=FLAGS)),
    tokens=several(st.builds(DatasourceToken, name=NAMES, scope=st.sampled_from(["READ", "APPEND"]))),
    final=FLAGS,
)
NODES = st.builds(Node, name=NAMES, description=TEXTS, sql=FILLED)
LIMITS = st.builds(
    Limits,
    max_seconds=maybe(st.sampled_from([0.25, 1, 3600])),
    max_rows=maybe(st.integers(1, 2**63 - 1)),
    max_memory=maybe(st.sampled_from([1, 2**20, 3 * 2**30, 2**63 - 1])),
)
MATERIALIZES = st.builds(
    Materialize, target=NAMES, node=maybe(NAMES), engine=maybe(ENGINES), per_tenant=FLAGS, drop_tenant_column=FLAGS
)
PIPES = st.builds(
    Pipe,
    name=NAMES,
    description=TEXTS,
    nodes=several(NODES, 1),
    type=maybe(st.sampled_from(["endpoint", "materialized", "standard"])),
    parameters=several(
        st.builds(
            Parameter,
            name=NAMES,
            default=maybe(TEXTS),
            description=TEXTS,
            required=FLAGS,
            enum=several(TEXTS),
            example=maybe(TEXTS),
            tenant_key=FLAGS,
        )
    ),
    endpoint=maybe(st.builds(Endpoint, node=maybe(NAMES), limits=LIMITS)),
    materialize=maybe(MATERIALIZES),
    tokens=several(st.builds(PipeToken, name=NAMES, scope=st.just("READ"))),
)
QUICK = settings(max_examples=soak_rounds(30), deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.soak
@QUICK
@given(DATASOURCES)
def test_a_written_datasource_reads_back_equal(datasource: Datasource) -> None:
    text = render_datasource(datasource)
    assert parse_source(text, None, datasource.name) == datasource
    Draft202012Validator(json_schema("datasource")).validate(yaml.safe_load(text))


@pytest.mark.soak
@QUICK
@given(PIPES)
def test_a_written_pipe_reads_back_equal(pipe: Pipe) -> None:
    text = render_pipe(pipe)
    assert parse_source(text, None, pipe.name) == pipe
    Draft202012Validator(json_schema("pipe")).validate(yaml.safe_load(text))


@pytest.mark.soak
@QUICK
@given(PIPES, MATERIALIZES)
def test_an_updated_pipe_differs_only_in_its_kind(pipe: Pipe, materialize: Materialize) -> None:
    text = update_pipe(render_pipe(pipe), pipe.name, materialize)
    expected = pipe.model_copy(update={"type": None, "endpoint": None, "tokens": (), "materialize": materialize})
    assert parse_source(text, None, pipe.name) == expected
    assert update_pipe(text, pipe.name, materialize) == text


def only_problems(read: Callable[[], object]) -> None:
    try:
        read()
    except RookeryError as problem:
        assert isinstance(problem, Problems)
        for one in problem.problems:
            assert one.place is not None
            assert str(one).encode()


WORDS = """\
columns nodes sql name type default engine tenant column landing sorting_key settings materialize target endpoint
limits max_memory max_seconds parameters enum tokens scope READ indexes final true 1 MergeTree a $.a SELECT _rk_a
, : - { } [ ] | > ' " # & * ! ? % @ ` ( ) tuple( \\
"""
KEYWORDS = [*re.split(r"\s+", WORDS.strip()), "\n", "\n  ", "\n    ", ": ", "- ", " ", "\t", "\ud800"]


@pytest.mark.soak
@settings(max_examples=soak_rounds(80), deadline=None)
@given(
    st.one_of(
        st.text(),
        st.text("ab:-{}[]|>'\"#&*!?\n\t ,%", max_size=60),
        st.lists(st.sampled_from(KEYWORDS), max_size=60).map("".join),
        st.binary(max_size=60).map(lambda x: x.decode(errors="replace")),
    ),
    st.one_of(st.just("x"), st.text(max_size=5)),
)
def test_any_text_gives_a_value_or_problems(text: str, name: str) -> None:
    only_problems(lambda: check(Project.of([parse_source(text, "f.yaml", name)])))


JSON = st.recursive(
    st.sampled_from(["a", "", "true", "1", "MergeTree", "READ", "$.a", "a, b", "(", "tuple()", "512MiB"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([x for x in KEYWORDS if x.isidentifier()] + ["json", "expression", "node", "zzz"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@pytest.mark.soak
@settings(max_examples=soak_rounds(80), deadline=None)
@given(st.dictionaries(st.sampled_from(["columns", "nodes", "sql", *KEYWORDS[:20]]), JSON, max_size=6))
def test_any_tree_gives_a_value_or_problems(tree: object) -> None:
    only_problems(lambda: check(Project.of([parse_source(yaml.safe_dump(tree), "f.yaml", "x")])))


@pytest.mark.soak
@QUICK
@given(PIPES)
def test_every_character_of_the_sql_is_found_in_the_file(pipe: Pipe) -> None:
    text = render_pipe(pipe)
    lines = text.split("\n")
    resource = parse_source(text, None, pipe.name)
    assert isinstance(resource, Pipe)
    for node in resource.nodes:
        if any(not (c.isprintable() or c in "\n\t\xa0") for c in node.sql):
            continue
        for number, line in enumerate(node.sql.split("\n"), 1):
            for column, char in enumerate(line, 1):
                place = node.position(number, column)
                assert place.line is not None
                assert place.column is not None
                assert lines[place.line - 1][place.column - 1] == char


def test_written_files_are_readable() -> None:
    datasource = Datasource(
        name="events",
        description="Events",
        columns=(
            Column(name="tenant_id", type="String"),
            Column(name="at", type="DateTime64(3, 'UTC')", default="now64(3)", json="$.at"),
        ),
        engine=Engine(sorting_key=("tenant_id", "at"), settings=(("index_granularity", "4096"),)),
        tenant=Tenant(column="tenant_id"),
    )
    assert (
        render_datasource(datasource)
        == """\
description: Events

columns:
  - {name: tenant_id, type: String}
  - {name: at, type: "DateTime64(3, 'UTC')", default: now64(3), json: $.at}

engine:
  type: MergeTree
  sorting_key: [tenant_id, at]
  settings: {index_granularity: 4096}

tenant: tenant_id
"""
    )
    pipe = Pipe(
        name="p",
        nodes=(Node(name="n", sql="SELECT 1  \n  -- why"),),
        endpoint=Endpoint(limits=Limits(max_memory=2**29, max_seconds=5)),
    )
    assert (
        render_pipe(pipe)
        == """\
nodes:
  - name: n
    sql: |
      SELECT 1  \n        -- why

endpoint:
  limits: {max_seconds: 5, max_memory: 512MiB}
"""
    )


AUTHORED = """\
# what it is for
description: x   # and why
type: endpoint

nodes:
  # first
  - name: n
    sql: |
      SELECT 1  -- as is


endpoint:
  limits:
    max_rows: 5
# at the end
parameters: [{name: a}]
"""


def test_an_update_keeps_what_the_author_wrote() -> None:
    once = update_pipe(AUTHORED, "p", Materialize(target="t1", engine=Engine(sorting_key=("a",))))
    assert (
        once
        == """\
# what it is for
description: x   # and why

nodes:
  # first
  - name: n
    sql: |
      SELECT 1  -- as is


# at the end
parameters: [{name: a}]

materialize:
  target: t1
  engine:
    type: MergeTree
    sorting_key: [a]
"""
    )
    twice = update_pipe(once + "\ntype: materialized\n", "p", Materialize(target="t2"))
    assert twice == once[: once.index("materialize:")] + "materialize:\n  target: t2\n\n"


@pytest.mark.parametrize(
    "text", ["{sql: SELECT 1, type: endpoint}", "---\nsql: SELECT 1\n...\n", "sql: SELECT 1", '"sql": "SELECT 1"']
)
def test_an_update_of_unusual_layouts(text: str) -> None:
    resource = parse_source(update_pipe(text, "p", Materialize(target="t")), None, "p")
    assert isinstance(resource, Pipe)
    assert resource.materialize == Materialize(target="t")
    assert resource.nodes[0].sql == "SELECT 1"


def test_an_update_keeps_line_endings() -> None:
    text = update_pipe(AUTHORED.replace("\n", "\r\n"), "p", Materialize(target="t"))
    assert text.count("\n") == text.count("\r\n")


def test_an_update_of_something_else_is_refused() -> None:
    with pytest.raises(RookeryError) as caught:
        update_pipe("columns: [{name: a, type: String}]", "d", Materialize(target="t"))
    assert caught.value.code.id == "RK1017"
    with pytest.raises(Problems):
        update_pipe("sql: [", "p", Materialize(target="t"))


def test_text_with_trailing_blank_lines_reads_back_equal() -> None:
    text = "sql: SELECT {{ String(a) }} AS a\nparameters:\n  - {name: a, enum: ['x', \"0\\n\\n\"]}\nendpoint: {}\n"
    pipe = parse_source(text, None, "p")
    assert isinstance(pipe, Pipe)
    again = parse_source(render_pipe(pipe), None, "p")
    assert isinstance(again, Pipe)
    assert again.parameters[0].enum == ("x", "0\n\n")
