"""OpenAPI of the published endpoints."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from engine.compiler.build import Build, parameters_of
from engine.errors import RookeryError
from engine.schema import Column
from engine.template.parameters import ParameterSpec, coerce
from engine.tenant_ids import integer_bounds
from engine.warehouse.render import QUOTE_SETTING
from engine.web import openapi_routes as routes

_WRAPPED = re.compile(r"(Nullable|LowCardinality|Array)\((.*)\)", re.DOTALL)
_INTEGER = re.compile(r"U?Int")
_LARGE = re.compile(r"U?Int(?:64|128|256)|Interval")
QUOTED = {
    "name": QUOTE_SETTING,
    "in": "query",
    "required": False,
    "schema": {"type": "string", "enum": ["0", "1", "true", "false"]},
    "description": "1: integers of 64 bits and more are text, since JavaScript rounds them beyond 2^53.",
}
"""The one setting of the engine that a request may choose."""


def document(build: Build, names: list[str], server: str, who: frozenset[str] = frozenset()) -> dict[str, Any]:
    """One OpenAPI 3.1 document for the named endpoints, and for the routes that these callers may use."""
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Workspace {build.workspace}", "version": "v0"},
        "servers": [{"url": server}],
        "security": [{"bearer": []}, {"token": []}],
        "paths": {**{f"/v0/pipes/{name}.json": _path(build, name) for name in names}, **routes.paths(who)},
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
    result = {"description": "The result", "content": {"application/json": {"schema": _result(build, name)}}}
    shared = {
        "summary": pipe.description.strip() or name,
        "responses": {"200": result, **routes.failures()},
    }
    # In a body the same parameters are the keys of an object; a form has them as a query has.
    body = {
        "type": "object",
        "properties": {p["name"]: _in_body(p["schema"]) for p in parameters if p is not QUOTED},
        "required": [p["name"] for p in parameters if p["required"]],
    }
    return {
        "get": {"operationId": name, "parameters": parameters, **shared},
        "post": {
            "operationId": f"{name} by POST",
            "requestBody": {"required": bool(body["required"]), "content": {"application/json": {"schema": body}}},
            **shared,
        },
    }


def _in_body(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter's schema in a body, where it may be null, and a boolean also a number or a text."""
    if schema.get("type") == "boolean":
        return {
            **{k: v for k, v in schema.items() if k != "type"},
            "enum": [True, False, 0, 1, "true", "false", None],
        }
    return routes.nullable(schema)


def _parameter(spec: ParameterSpec) -> dict[str, Any]:
    schema = _ranged(spec.type, _type(spec.type))
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
    row = {
        "type": "object",
        "properties": {c.name: _column(c) for c in columns},
        "required": [c.name for c in columns],
    }
    number = {"type": "number"}
    return {
        "type": "object",
        "required": ["meta", "data", "rows", "statistics"],
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
    found = _type(column.type, large=["integer", "string"])
    # What is no number, or not finite, is null in JSON.
    return {**found, "type": ["number", "null"]} if found.get("type") == "number" else found


def _ranged(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a parameter, with what its type can hold."""
    inner = _WRAPPED.fullmatch(kind)
    if inner and inner.group(1) == "Array":
        return {**schema, "items": _ranged(inner.group(2), schema["items"])}
    bounds = integer_bounds({"Int": "Int64", "Integer": "Int64"}.get(kind, kind))
    if bounds is not None:
        return {**schema, "minimum": bounds[0], "maximum": bounds[1]}
    if kind == "Date":
        return {**schema, "pattern": "^(19[7-9][0-9]|20[0-9]{2})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$"}
    if kind == "UUID":
        return {**schema, "format": "uuid"}
    return schema


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
