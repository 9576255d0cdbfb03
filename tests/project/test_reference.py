"""The reference of files and the JSON Schemas match the models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from engine.project import datasource, pipe, suite
from engine.project.check import check
from engine.project.fields import RESERVED
from engine.project.located_model import Located, LocatedModel
from engine.project.model import Project
from engine.project.parse import parse_source
from engine.project.pipe import Pipe
from engine.project.schema_json import FILE_KINDS, json_schema, schema_text
from engine.project.validation_errors import known_keys

PAGE = (Path(__file__).parents[2] / "docs/files.md").read_text()
EXAMPLES = dict(re.findall(r"```yaml\n# (\S+\.yaml)\n(.*?)```", PAGE, re.DOTALL))
SECTIONS: dict[type[Located], str] = {
    datasource.Datasource: "## Datasource",
    datasource.Column: "### `columns`",
    datasource.Engine: "### `engine`",
    datasource.Index: "### `indexes`",
    datasource.Tenant: "### `tenant`",
    datasource.Shared: "### `shared`",
    datasource.DatasourceToken: "### `tokens`",
    pipe.PipeToken: "### `tokens`",
    pipe.Pipe: "## Pipe",
    pipe.Node: "### `nodes`",
    pipe.Parameter: "### `parameters`",
    pipe.Endpoint: "### `endpoint`",
    pipe.Limits: "### `endpoint`",
    pipe.Materialize: "### `materialize`",
}
PAIRS = [(kind, key) for kind in SECTIONS for key in known_keys(kind)]


def section(title: str) -> str:
    start = PAGE.index(f"\n{title}\n")
    ends = [m.start() for m in re.finditer(r"\n##", PAGE) if m.start() > start]
    return PAGE[start : min(ends, default=len(PAGE))]


def test_every_kind_of_mapping_has_a_section() -> None:
    kinds = {x for x in (vars(datasource) | vars(pipe)).values() if isinstance(x, type) and issubclass(x, Located)}
    assert kinds - {Located, LocatedModel} == set(SECTIONS)


@pytest.mark.parametrize(("kind", "key"), PAIRS)
def test_every_key_is_documented(kind: type[Located], key: str) -> None:
    assert f"\n| `{key}` |" in section(SECTIONS[kind])


@pytest.mark.parametrize("kind", SECTIONS)
def test_every_documented_key_exists(kind: type[Located]) -> None:
    documented = set(re.findall(r"\n\| `(\w+)` \|", section(SECTIONS[kind])))
    known = {key for other, title in SECTIONS.items() if title == SECTIONS[kind] for key in known_keys(other)}
    assert documented == known


def used(value: object) -> Iterator[tuple[type[Located], str]]:
    if isinstance(value, Located):
        for name, field in type(value).model_fields.items():
            if name in value.model_fields_set:
                yield type(value), field.alias or name
                yield from used(getattr(value, name))
    elif isinstance(value, tuple):
        for item in value:
            yield from used(item)


def test_every_key_is_in_an_example_and_the_examples_are_a_valid_project() -> None:
    assert len(EXAMPLES) == PAGE.count("```yaml")
    project = Project.of(parse_source(text, file, Path(file).stem) for file, text in EXAMPLES.items())
    assert check(project) == []
    shown = {pair for resource in project.resources() for pair in used(resource)}
    assert set(PAIRS) - shown == {(Pipe, "sql")}
    assert any(text.startswith("sql:") for text in EXAMPLES.values())


@pytest.mark.parametrize("file", EXAMPLES)
def test_the_schemas_accept_the_examples(file: str) -> None:
    kind = "datasource" if "columns:" in EXAMPLES[file].split("\nnodes")[0] else "pipe"
    Draft202012Validator(json_schema(kind)).validate(as_json(EXAMPLES[file]))


def as_json(text: str) -> Any:
    """As an editor reads it: dates are text."""
    loader = type("Loader", (yaml.SafeLoader,), {})
    loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in pairs if not tag.endswith("timestamp")]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return yaml.load(text, Loader=loader)


@pytest.mark.parametrize("kind", FILE_KINDS)
def test_the_shipped_schemas_are_those_of_the_models(kind: str) -> None:
    shipped = resources.files("engine.project").joinpath(f"{kind}.schema.json").read_text(encoding="utf-8")
    assert shipped == schema_text(kind), (
        "regenerate it: python -c \"from engine.project.schema_json import *; print(schema_text('...'), end='')\""
    )


@pytest.mark.parametrize("kind", FILE_KINDS)
def test_the_schemas_are_valid_and_contain_every_key(kind: str) -> None:
    schema = json_schema(kind)
    Draft202012Validator.check_schema(schema)
    assert set(schema["properties"]) == set(known_keys(FILE_KINDS[kind]))
    for name, definition in schema["$defs"].items():
        mapping = (vars(datasource) | vars(pipe) | vars(suite))[name.removesuffix("Mapping")]
        if "anyOf" not in definition:
            assert set(definition["properties"]) == set(known_keys(mapping)), name
            assert definition["additionalProperties"] is False


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("pipe", {"nodes": [], "sql": "a"}),
        ("pipe", {"nodes": [{"name": "1", "sql": "a"}]}),
        ("pipe", {"sql": "a", "nme": 1}),
        ("pipe", {"sql": "a", "name": "x"}),
        ("pipe", {"description": "a"}),
        ("datasource", {"columns": [{"name": "a"}]}),
        ("datasource", {"columns": [{"name": "a", "type": "String"}], "engine": "InnoDB"}),
        ("datasource", {"columns": [{"name": "a", "type": "String"}], "engine": {"typ": "Null"}}),
    ],
)
def test_the_schemas_refuse_mistakes(kind: str, content: object) -> None:
    assert not Draft202012Validator(json_schema(kind)).is_valid(content)


def test_reserved_words_are_listed() -> None:
    assert all(f"`{word}`" in PAGE for word in RESERVED)
