"""OpenAPI of the routes that every workspace has: SQL, events, files and the control routes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from engine.tokens.claims import SCOPE_TYPES, Claims
from engine.web.access import ACCESS, is_allowed

Schema = dict[str, Any]
TEXT_SCHEMA: Schema = {"type": "string", "minLength": 1}
FLAG_SCHEMA: Schema = {"type": "string", "enum": ["true", "false", "1", "0"]}
NAMES_SCHEMA: Schema = {"type": "array", "items": {"type": "string"}}
BOOL: Schema = {"type": "boolean"}
OBJECT: Schema = {"type": "object"}
DATASOURCE: Schema = {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9_]{0,119}$"}
FILE_BODY = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "file": {"type": "string"}, "text": {"type": "string"}},
    "required": ["name", "file", "text"],
    "additionalProperties": False,
}
FAILURES = {
    "400": "The request is not valid",
    "403": "The token does not allow the request",
    "404": "The resource does not exist",
    "405": "The route does not support the method",
    "408": "The query or the request took too long",
    "409": "The request conflicts with what exists",
    "413": "The body is too large",
    "414": "The URL is too long",
    "415": "The content type is not supported",
    "422": "The idempotency key was used for another body",
    "429": "Too many requests or queries at once",
    "431": "The headers are too large",
    "500": "The server failed",
    "503": "The server or its database is busy or unavailable",
    "507": "The disk is full",
}
"""Statuses of failures that every route may return, each with an `Error`."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the API."""

    method: str
    path: str
    summary: str
    query: dict[str, Schema] = field(default_factory=dict)
    """Query parameters."""
    required: tuple[str, ...] = ()
    """Names of required query parameters."""
    body: Schema | None = None
    body_types: tuple[str, ...] = ("application/json",)
    """Content types of the body."""
    responses: dict[str, Schema | None] = field(default_factory=lambda: {"200": OBJECT})
    """Schemas of successful responses by status; None for a response without a body."""
    response_type: str = "application/json"
    """Content type of the responses."""


def closed(*required: str, **properties: Schema) -> Schema:
    """The schema of an object without other keys."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def nullable(schema: Schema) -> Schema:
    """A schema that also accepts null, which means the same as an absent key."""
    result = {**schema, "type": [schema["type"], "null"]} if isinstance(schema.get("type"), str) else schema
    return {**result, "enum": [*result["enum"], None]} if "enum" in result else result


_TABLE: Schema = {
    "type": "object",
    "required": ["meta", "data", "rows"],
    "properties": {"meta": {"type": "array"}, "data": {"type": "array"}, "rows": {"type": "integer", "minimum": 0}},
}
_APPENDED: Schema = {
    "type": "object",
    "required": ["successful_rows", "quarantined_rows"],
    "properties": {n: {"type": "integer", "minimum": 0} for n in ("successful_rows", "quarantined_rows")},
}
_SCOPES: Schema = {"type": "array", "items": {"type": ["string", "object"]}}
_TOKEN = closed(
    "name",
    name={"type": "string", "minLength": 1, "maxLength": 200},
    scopes=_SCOPES,
    tenant=nullable(TEXT_SCHEMA),
    ttl=nullable({"type": "integer", "minimum": 1}),
    expiration_time=nullable({"type": "integer", "minimum": 1}),
    static=BOOL,
    limits=nullable(closed(rps=nullable({"type": "integer", "minimum": 1}))),
)
_PUSH = closed(
    files={"type": "array", "items": FILE_BODY},
    dry_run=BOOL,
    prune=BOOL,
    allow=NAMES_SCHEMA,
    only=NAMES_SCHEMA,
    with_dependencies=BOOL,
    skip_backfill=NAMES_SCHEMA,
)
_PROPOSAL = closed(
    "pipe",
    "target",
    files={"type": "array", "items": FILE_BODY},
    pipe=TEXT_SCHEMA,
    target=TEXT_SCHEMA,
    node=nullable(TEXT_SCHEMA),
    per_tenant=BOOL,
)
_REPLAY: Schema = {
    "oneOf": [
        closed("ids", ids=NAMES_SCHEMA),
        closed("rows", rows={"type": "array", "items": closed("id", "text", id=TEXT_SCHEMA, text=TEXT_SCHEMA)}),
    ]
}
_COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 10_000}
_Q: Schema = {"type": "string", "minLength": 1, "description": "One SELECT; a FORMAT clause chooses the format"}

OPERATIONS = (
    Operation("get", "/live", "Whether the process is alive"),
    Operation("get", "/ready", "Whether the server is ready", responses={"200": OBJECT, "503": OBJECT}),
    Operation(
        "get",
        "/docs/errors",
        "List of the error codes",
        response_type="text/html",
        responses={"200": {"type": "string"}},
    ),
    Operation(
        "get",
        "/docs/errors/{code}",
        "Page of an error code",
        response_type="text/html",
        responses={"200": {"type": "string"}},
    ),
    Operation("get", "/v0/sql", "Ad-hoc SQL", {"q": _Q}, ("q",), responses={"200": _TABLE}),
    Operation("post", "/v0/sql", "Ad-hoc SQL", body=closed("q", q=_Q), responses={"200": _TABLE}),
    Operation(
        "post",
        "/v0/events",
        "Append events",
        {"name": DATASOURCE, "wait": {"type": "string", "enum": ["true", "false", "visible"]}},
        ("name",),
        OBJECT,
        ("application/x-ndjson", "application/json"),
        {"200": _APPENDED, "202": _APPENDED},
    ),
    Operation("get", "/v0/events/{key}", "Receipts of the appends with an idempotency key"),
    Operation("get", "/v0/datasources", "List the datasources"),
    Operation(
        "post",
        "/v0/datasources",
        "Append a file, or replace all rows with it",
        {
            "name": DATASOURCE,
            "mode": {"type": "string", "enum": ["append", "replace"]},
            "format": {"type": "string", "enum": ["csv", "ndjson", "parquet"]},
        },
        ("name",),
        {"type": "string"},
        ("text/csv",),
    ),
    Operation("get", "/v0/datasources/{name}", "Show a datasource"),
    Operation(
        "delete",
        "/v0/datasources/{name}",
        "Remove a datasource",
        query={"force": FLAG_SCHEMA, "dry_run": FLAG_SCHEMA},
    ),
    Operation(
        "get",
        "/v0/datasources/{name}/quarantine",
        "List rows in quarantine",
        query={"limit": _COUNT, "offset": {"type": "integer", "minimum": 0, "maximum": 1 << 62}},
    ),
    Operation(
        "delete",
        "/v0/datasources/{name}/quarantine",
        "Drop rows from quarantine",
        body={"oneOf": [closed("ids", ids=NAMES_SCHEMA), closed("all", all={"type": "boolean", "const": True})]},
    ),
    Operation("post", "/v0/datasources/{name}/quarantine/replay", "Replay rows from quarantine", body=_REPLAY),
    Operation("get", "/v0/pipes", "List the pipes"),
    Operation("get", "/v0/pipes/openapi.json", "This document"),
    Operation("get", "/v0/pipes/{name}", "Show a pipe"),
    Operation("delete", "/v0/pipes/{name}", "Remove a pipe", query={"force": FLAG_SCHEMA, "dry_run": FLAG_SCHEMA}),
    Operation("get", "/v0/pipes/{name}/explain", "Explain a call of an endpoint"),
    Operation("post", "/v0/pipes/{name}/explain", "Explain a call of an endpoint", body=OBJECT),
    Operation("post", "/v0/push", "Push a project, or plan a push", body=_PUSH),
    Operation("post", "/v0/materialize", "Propose the files of a materialized pipe", body=_PROPOSAL),
    Operation("get", "/v0/tenants", "List the tenants"),
    Operation(
        "post",
        "/v0/tenants",
        "Add tenants",
        body=closed("id", id=TEXT_SCHEMA, placement=nullable({"type": "string", "enum": ["pooled", "tables"]})),
    ),
    Operation("get", "/v0/tenants/{id}", "Show a tenant"),
    Operation(
        "delete",
        "/v0/tenants/{id}",
        "Remove a tenant",
        query={"purge": FLAG_SCHEMA, "allow": {"type": "string"}},
        responses={"204": None, "200": OBJECT},
    ),
    Operation("get", "/v0/tokens", "List the static tokens"),
    Operation("post", "/v0/tokens", "Create a static token or a JWT", body=_TOKEN),
    Operation("get", "/v0/tokens/{name}", "Show a static token"),
    Operation("delete", "/v0/tokens/{name}", "Remove a static token"),
    Operation("post", "/v0/tokens/{name}/refresh", "Replace a static token with a new one"),
    Operation("get", "/v0/signing-key", "Show the key that signs JWTs"),
    Operation(
        "post",
        "/v0/signing-key",
        "Rotate the key that signs JWTs",
        body=closed(overlap={"type": "integer", "minimum": 0, "maximum": 366 * 86_400}),
    ),
    Operation("get", "/v0/workspace", "Describe the workspace"),
    Operation("get", "/v0/fanout", "How far the tenants' tables are behind"),
    Operation("post", "/v0/fanout/retry", "Retry failing tenants now"),
    Operation("get", "/v0/doctor", "Examine the workspace", query={"deep": FLAG_SCHEMA}),
    Operation("post", "/v0/doctor", "Deliver missing rows", body=closed(allow=NAMES_SCHEMA)),
    Operation(
        "post",
        "/v0/backup",
        "Back up the data of the embedded engine",
        body=closed(to=TEXT_SCHEMA),
        response_type="application/x-tar",
        responses={"200": {"type": "string", "format": "binary"}},
    ),
    Operation(
        "get", "/metrics", "Metrics for Prometheus", response_type="text/plain", responses={"200": {"type": "string"}}
    ),
)


def paths(claims: Claims) -> dict[str, Any]:
    """OpenAPI paths of the operations that a token may use."""
    by_path: dict[str, Any] = {}
    for operation in OPERATIONS:
        if is_allowed(claims, operation.path, operation.method.upper()):
            by_path.setdefault(operation.path, {})[operation.method] = _document(operation)
    return by_path


def failures(*without: str) -> dict[str, Any]:
    """The failure responses of every operation, except those with the statuses `without`."""
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {s: {"description": text, "content": error} for s, text in FAILURES.items() if s not in without}


def security(scopes: frozenset[str]) -> list[dict[str, list[str]]]:
    """The security requirements of an operation that tokens with any of these scopes may call."""
    return [{scheme: [scope]} for scope in SCOPE_TYPES if scope in scopes for scheme in ("bearer", "token")]


def _document(operation: Operation) -> dict[str, Any]:
    """An operation in the form of OpenAPI."""
    segments = operation.path.split("/")
    in_path = [
        {"name": s[1:-1], "in": "path", "required": True, "schema": TEXT_SCHEMA}
        for s in segments
        if s.startswith("{")
    ]
    in_query = [
        {"name": name, "in": "query", "required": name in operation.required, "schema": schema}
        for name, schema in operation.query.items()
    ]
    responses = {
        status: {
            "description": "Success",
            **({"content": {operation.response_type: {"schema": schema}}} if schema else {}),
        }
        for status, schema in operation.responses.items()
    }
    document: dict[str, Any] = {
        "operationId": f"{operation.method} {operation.path}",
        "summary": operation.summary,
        "parameters": [*in_path, *in_query],
        "responses": {**failures(), **responses},
    }
    document["security"] = security(ACCESS[operation.path][operation.method.upper()])
    if operation.body is not None:
        content = {type: {"schema": operation.body} for type in operation.body_types}
        document["requestBody"] = {"required": bool(operation.body.get("required")), "content": content}
    return document
