"""JSON Schemas of the kinds of file, generated from the models. Editors use them to complete and check files."""

from __future__ import annotations

import json
from typing import Any

from engine.project.datasource import Datasource, Engine, Shared, Tenant
from engine.project.located_model import Located
from engine.project.pipe import Pipe
from engine.project.suite import Suite

FILE_KINDS: dict[str, type[Located]] = {"datasource": Datasource, "pipe": Pipe, "test": Suite}
_SHORT_FORMS = {Engine.__name__: "type", Tenant.__name__: "column", Shared.__name__: "all"}


def json_schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of a `datasource`, `pipe` or `test` file."""
    schema = FILE_KINDS[kind].model_json_schema()
    _tidy(schema)
    for model, key in _SHORT_FORMS.items():
        definition = schema.get("$defs", {}).get(model)
        if definition:
            short = {"$ref": f"#/$defs/{model}Mapping/properties/{key}"}
            schema["$defs"][f"{model}Mapping"] = definition
            schema["$defs"][model] = {"anyOf": [short, {"$ref": f"#/$defs/{model}Mapping"}]}
    if kind == "pipe":
        _add_short_pipe(schema)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"{kind} file"}
    return {**head, **schema}


def schema_text(kind: str) -> str:
    """The JSON Schema as the text of the shipped file, `engine/project/<kind>.schema.json`."""
    return json.dumps(json_schema(kind), indent=2, ensure_ascii=False) + "\n"


def _add_short_pipe(schema: dict[str, Any]) -> None:
    sql = {"description": "The SELECT of a pipe with a single node; the short form of `nodes`.", "type": "string"}
    schema["properties"]["sql"] = sql
    del schema["required"]
    schema["oneOf"] = [{"required": ["nodes"]}, {"required": ["sql"]}]


def _tidy(schema: dict[str, Any]) -> None:
    """Remove what does not help an editor: titles, Python defaults, and the alternative null, which no file has."""
    schema.pop("title", None)
    if schema.get("default", 0) in (None, "", []) or isinstance(schema.get("default"), dict):
        del schema["default"]
    options = [option for option in schema.get("anyOf", []) if option != {"type": "null"}]
    if options and len(options) < len(schema["anyOf"]):
        del schema["anyOf"]
        schema.update(options[0] if len(options) == 1 else {"anyOf": options})
    properties = schema.get("properties", {})
    if "required" in schema:
        schema["required"] = [key for key in schema["required"] if key in properties]
    # The keys in these mappings are names that may equal schema keywords, so only the values are visited.
    for part in (*properties.values(), *schema.get("$defs", {}).values(), *schema.get("anyOf", [])):
        _tidy(part)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            _tidy(schema[key])
