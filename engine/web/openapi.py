"""OpenAPI of the published endpoints."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from engine.compiler.build import Build, parameters_of
from engine.compiler.params import ParameterSpec, coerce
from engine.errors import RookeryError
from engine.schema import Column
from engine.warehouse.render import QUOTE

_WRAPPED = re.compile(r"(Nullable|LowCardinality|Array)\((.*)\)", re.DOTALL)
_INTEGER = re.compile(r"U?Int")
_LARGE = re.compile(r"U?Int(?:64|128|256)|Interval")
QUOTED = {
    "name": QUOTE,
    "in": "query",
    "required": False,
    "schema": {"type": "integer", "enum": [0, 1]},
    "description": "1: integers of 64 bits and more are text, since JavaScript rounds them beyond 2^53.",
}
"""The one setting of the engine that a request may choose."""
ERROR = {"$ref": "#/components/schemas/Error"}


def document(build: Build, names: list[str], server: str) -> dict[str, Any]:
    """One OpenAPI 3.1 document for the named endpoints."""
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Workspace {build.workspace}", "version": "v0"},
        "servers": [{"url": server}],
        "security": [{"bearer": []}, {"token": []}],
        "paths": {f"/v0/pipes/{name}.json": _path(build, name) for name in names},
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "token": {"type": "apiKey", "in": "query", "name": "token"},
            },
            "schemas": {
                "Error": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {k: {"type": "string"} for k in ("error", "code", "hint", "documentation")},
                }
            },
        },
    }


def _path(build: Build, name: str) -> dict[str, Any]:
    pipe = build.pipes[name]
    # A tenant key comes from the token and never from the caller, so it is not offered.
    parameters = [_parameter(p) for p in parameters_of(build.pipes, name) if not p.tenant_key]
    parameters.append(QUOTED)
    failures = {"400": "Bad parameter", "403": "Token refused", "408": "Too slow", "429": "Too many at once"}
    operation = {
        "operationId": name,
        "summary": pipe.description.strip() or name,
        "parameters": parameters,
        "responses": {
            "200": {"description": "The result", "content": {"application/json": {"schema": _result(build, name)}}},
            **{
                s: {"description": d, "content": {"application/json": {"schema": ERROR}}} for s, d in failures.items()
            },
        },
    }
    return {"get": operation}


def _parameter(spec: ParameterSpec) -> dict[str, Any]:
    schema = _type(spec.type)
    if spec.default is not None:
        schema["default"] = _value(spec, spec.default)
    if spec.enum:
        kind = schema["items"] if schema.get("type") == "array" else schema
        kind["enum"] = [_value(spec, e, item=kind is not schema) for e in spec.enum]
    found: dict[str, Any] = {"name": spec.name, "in": "query", "required": bool(spec.required), "schema": schema}
    if schema.get("type") == "array":
        found |= {"style": "form", "explode": True}
    if spec.description:
        found["description"] = spec.description
    if spec.example is not None:
        found["example"] = _value(spec, spec.example)
    return found


def _value(spec: ParameterSpec, raw: Any, *, item: bool = False) -> Any:
    """A value that the author wrote, maybe as text, as JSON of the parameter's type."""
    kind = spec.type.removeprefix("Array(").removesuffix(")") if item else spec.type
    try:
        value = coerce(spec.name, kind, raw)
    except RookeryError:
        return str(raw)
    return float(value) if isinstance(value, Decimal) else value


def _result(build: Build, name: str) -> dict[str, Any]:
    columns = build.outputs.get(name, ())
    row = {"type": "object", "properties": {c.name: _column(c) for c in columns}}
    number = {"type": "number"}
    return {
        "type": "object",
        "properties": {
            "meta": {"type": "array", "items": {"type": "object"}},
            "data": {"type": "array", "items": row},
            "rows": {"type": "integer"},
            "rows_before_limit_at_least": {"type": "integer"},
            "statistics": {
                "type": "object",
                "properties": dict.fromkeys(("elapsed", "rows_read", "bytes_read"), number),
            },
        },
    }


def _column(column: Column) -> dict[str, Any]:
    return _type(column.type, large=["integer", "string"])


def _type(kind: str, large: str | list[str] = "integer") -> dict[str, Any]:
    """JSON Schema of a ClickHouse type, as its JSON output has it; `large` is the type of integers of 64 bits."""
    inner = _WRAPPED.fullmatch(kind)
    if inner and inner.group(1) == "Array":
        return {"type": "array", "items": _type(inner.group(2), large)}
    if inner and inner.group(1) == "Nullable":
        found = _type(inner.group(2), large)
        types = [found["type"]] if isinstance(found.get("type"), str) else found.get("type")
        return {**found, "type": [*types, "null"]} if types else found
    if inner:
        return _type(inner.group(2), large)
    if _LARGE.match(kind):
        return {"type": large}
    if _INTEGER.match(kind) or kind == "Integer":
        return {"type": "integer"}
    if kind.startswith(("Float", "Decimal")):
        return {"type": "number"}
    if kind in {"Bool", "Boolean"}:
        return {"type": "boolean"}
    if kind == "Date":
        return {"type": "string", "format": "date"}
    if kind.startswith(("Map", "Tuple", "JSON", "Nested", "Object")):
        return {}
    return {"type": "string"}
