"""The OpenAPI document of a workspace: its endpoints, and the routes of `openapi_routes`."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from engine.compiler.build import Build, parameters_of
from engine.errors import RookeryError
from engine.schema import Column
from engine.template.parameters import ParameterSpec, coerce
from engine.tenant_ids import integer_bounds
from engine.tokens.claims import Claims
from engine.warehouse.render import QUOTE_SETTING
from engine.web import openapi_routes as routes
from engine.web.access import ACCESS

_WRAPPED = re.compile(r"(Nullable|LowCardinality|Array)\((.*)\)", re.DOTALL)
_INTEGER = re.compile(r"U?Int")
_LARGE = re.compile(r"U?Int(?:64|128|256)|Interval")
QUOTED = {
    "name": QUOTE_SETTING,
    "in": "query",
    "required": False,
    "schema": {"type": "string", "enum": ["0", "1", "true", "false"]},
    "description": "1: 64-bit and larger integers are strings, because JavaScript rounds integers beyond 2^53.",
}
"""The only engine setting that a request may change."""
SECURITY = "A static token or a JWT. Each operation lists the scopes that allow it, any of which is sufficient."
CALL = "/v0/pipes/{name}.{format}"
"""The path of endpoint calls in `ACCESS`."""


def document(build: Build, names: list[str], server: str, claims: Claims) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these endpoints, and of the routes that the token may call."""
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Workspace {build.workspace}", "version": "v0"},
        "servers": [{"url": server}],
        "security": [{"bearer": []}, {"token": []}],
        "paths": {**{f"/v0/pipes/{name}.json": _path(build, name) for name in names}, **routes.paths(claims)},
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": SECURITY},
                "token": {"type": "apiKey", "in": "query", "name": "token", "description": SECURITY},
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
    """The GET and POST operations of one endpoint."""
    pipe = build.pipes[name]
    # Tenant keys come from the token and never from the request, so the document omits them.
    parameters = [_parameter(p) for p in parameters_of(build.pipes, name) if not p.tenant_key]
    parameters.append(QUOTED)
    result = {"description": "The result", "content": {"application/json": {"schema": _result(build, name)}}}
    shared = {
        "summary": pipe.description.strip() or name,
        "responses": {"200": result, **routes.failures()},
        "security": routes.security(ACCESS[CALL]["GET"]),
    }
    # In a JSON body the same parameters are the keys of an object.
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
    """A parameter's schema in a JSON body, where it may be null, and a boolean may also be a number or a string."""
    if schema.get("type") == "boolean":
        return {
            **{k: v for k, v in schema.items() if k != "type"},
            "enum": [True, False, 0, 1, "true", "false", None],
        }
    return routes.nullable(schema)


def _parameter(spec: ParameterSpec) -> dict[str, Any]:
    """One query parameter of an endpoint."""
    schema = _with_range(spec.type, _schema_of(spec.type))
    if spec.default is not None:
        schema["default"] = _value(spec, spec.default)
    if spec.enum:
        value_schema = schema["items"] if schema.get("type") == "array" else schema
        value_schema["enum"] = [_value(spec, e, item=value_schema is not schema) for e in spec.enum]
    parameter: dict[str, Any] = {
        "name": spec.name,
        "in": "query",
        "required": bool(spec.required),
        "schema": schema,
    }
    if schema.get("type") == "array":
        parameter |= {"style": "form", "explode": True}
    if spec.description:
        parameter["description"] = spec.description
    if spec.example is not None:
        parameter["example"] = _value(spec, spec.example)
    return parameter


def _value(spec: ParameterSpec, raw: Any, *, item: bool = False) -> Any:
    """Convert a value from the pipe's file, which may be a string, to JSON of the parameter's type."""
    type = spec.type.removeprefix("Array(").removesuffix(")") if item else spec.type
    try:
        value = coerce(spec.name, type, raw)
    except RookeryError:
        return str(raw)
    return float(value) if isinstance(value, Decimal) else value


def _result(build: Build, name: str) -> dict[str, Any]:
    """The schema of an endpoint's JSON result."""
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
    """The schema of a column in a JSON result. Large integers may be strings: see QUOTED."""
    schema = _schema_of(column.type, large=["integer", "string"])
    # NaN and infinities are null in JSON.
    return {**schema, "type": ["number", "null"]} if schema.get("type") == "number" else schema


def _with_range(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a parameter with the range or the pattern of its type."""
    inner = _WRAPPED.fullmatch(kind)
    if inner and inner.group(1) == "Array":
        return {**schema, "items": _with_range(inner.group(2), schema["items"])}
    bounds = integer_bounds({"Int": "Int64", "Integer": "Int64"}.get(kind, kind))
    if bounds is not None:
        return {**schema, "minimum": bounds[0], "maximum": bounds[1]}
    if kind == "Date":
        return {**schema, "pattern": "^(19[7-9][0-9]|20[0-9]{2})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$"}
    if kind == "UUID":
        return {**schema, "format": "uuid"}
    return schema


def _schema_of(kind: str, large: str | list[str] = "integer") -> dict[str, Any]:
    """JSON Schema of a ClickHouse type in JSON output; `large` is the JSON type of 64-bit and larger integers."""
    inner = _WRAPPED.fullmatch(kind)
    if inner and inner.group(1) == "Array":
        return {"type": "array", "items": _schema_of(inner.group(2), large)}
    if inner and inner.group(1) == "Nullable":
        schema = _schema_of(inner.group(2), large)
        types = [schema["type"]] if isinstance(schema.get("type"), str) else schema.get("type")
        return {**schema, "type": [*types, "null"]} if types else schema
    if inner:
        return _schema_of(inner.group(2), large)
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
