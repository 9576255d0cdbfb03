"""OpenAPI of the routes that every workspace has: SQL, events, files and, for admins, everything they control."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

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
    "403": "The token does not allow it",
    "404": "It does not exist",
    "405": "The route has no such method",
    "408": "It took too long",
    "409": "It is in conflict with what exists",
    "413": "The body is too large",
    "414": "The URL is too long",
    "415": "The type of the body is not understood",
    "422": "The idempotency key was used for another body",
    "429": "Too much at once",
    "431": "The headers are too large",
    "500": "The server failed",
    "503": "The server cannot do it now",
    "507": "The disk is full",
}
"""What every route may answer besides success, as an `Error`."""


@dataclass(frozen=True, slots=True)
class Documented:
    """One operation: who may call it (`admin`, `append` or `read`), what it is sent and what it answers."""

    method: str
    path: str
    summary: str
    who: str = "admin"
    query: dict[str, Schema] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    body: Schema | None = None
    kinds: tuple[str, ...] = ("application/json",)
    answers: dict[str, Schema | None] = field(default_factory=lambda: {"200": OBJECT})
    media: str = "application/json"


def closed(*required: str, **properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def nullable(schema: Schema) -> Schema:
    """A schema that also takes null, which means what an absent key means."""
    found = {**schema, "type": [schema["type"], "null"]} if isinstance(schema.get("type"), str) else schema
    return {**found, "enum": [*found["enum"], None]} if "enum" in found else found


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

ROUTES = (
    Documented("get", "/live", "The process answers", "anybody"),
    Documented("get", "/ready", "The database answers", "anybody", answers={"200": OBJECT, "503": OBJECT}),
    Documented("get", "/v0/sql", "Ad-hoc SQL", "read", {"q": _Q}, ("q",), answers={"200": _TABLE}),
    Documented("post", "/v0/sql", "Ad-hoc SQL", "read", body=closed("q", q=_Q), answers={"200": _TABLE}),
    Documented(
        "post",
        "/v0/events",
        "Append events",
        "append",
        {"name": DATASOURCE, "wait": {"type": "string", "enum": ["true", "false", "visible"]}},
        ("name",),
        OBJECT,
        ("application/x-ndjson", "application/json"),
        {"200": _APPENDED, "202": _APPENDED},
    ),
    Documented("get", "/v0/events/{key}", "What became of appends under a key", "append"),
    Documented("get", "/v0/datasources", "Datasources"),
    Documented(
        "post",
        "/v0/datasources",
        "Append a file, or replace all rows with it",
        "append",
        {
            "name": DATASOURCE,
            "mode": {"type": "string", "enum": ["append", "replace"]},
            "format": {"type": "string", "enum": ["csv", "ndjson", "parquet"]},
        },
        ("name",),
        {"type": "string"},
        ("text/csv",),
    ),
    Documented("get", "/v0/datasources/{name}", "A datasource"),
    Documented(
        "delete",
        "/v0/datasources/{name}",
        "Remove a datasource",
        query={"force": FLAG_SCHEMA, "dry_run": FLAG_SCHEMA},
    ),
    Documented(
        "get",
        "/v0/datasources/{name}/quarantine",
        "Rows in quarantine",
        query={"limit": _COUNT, "offset": {"type": "integer", "minimum": 0, "maximum": 1 << 62}},
    ),
    Documented(
        "delete",
        "/v0/datasources/{name}/quarantine",
        "Drop rows from quarantine",
        body={"oneOf": [closed("ids", ids=NAMES_SCHEMA), closed("all", all={"type": "boolean", "const": True})]},
    ),
    Documented("post", "/v0/datasources/{name}/quarantine/replay", "Send rows again", body=_REPLAY),
    Documented("get", "/v0/pipes", "Pipes"),
    Documented("get", "/v0/pipes/openapi.json", "This document", "anybody with a token"),
    Documented("get", "/v0/pipes/{name}", "A pipe"),
    Documented("delete", "/v0/pipes/{name}", "Remove a pipe", query={"force": FLAG_SCHEMA, "dry_run": FLAG_SCHEMA}),
    Documented("post", "/v0/push", "Push or plan", body=_PUSH),
    Documented("post", "/v0/materialize", "Propose a target", body=_PROPOSAL),
    Documented("get", "/v0/tenants", "Tenants"),
    Documented(
        "post",
        "/v0/tenants",
        "Add tenants",
        body=closed("id", id=TEXT_SCHEMA, placement=nullable({"type": "string", "enum": ["pooled", "tables"]})),
    ),
    Documented("get", "/v0/tenants/{id}", "A tenant"),
    Documented(
        "delete",
        "/v0/tenants/{id}",
        "Remove a tenant",
        query={"purge": FLAG_SCHEMA, "allow": {"type": "string"}},
        answers={"204": None, "200": OBJECT},
    ),
    Documented("get", "/v0/tokens", "Static tokens"),
    Documented("post", "/v0/tokens", "Make a static token or a JWT", body=_TOKEN),
    Documented("get", "/v0/tokens/{name}", "A static token"),
    Documented("delete", "/v0/tokens/{name}", "Remove a static token"),
    Documented("post", "/v0/tokens/{name}/refresh", "Give a static token a new text"),
    Documented("get", "/v0/signing-key", "The key that signs JWTs"),
    Documented(
        "post",
        "/v0/signing-key",
        "Rotate that key",
        body=closed(overlap={"type": "integer", "minimum": 0, "maximum": 366 * 86_400}),
    ),
    Documented("get", "/v0/workspace", "What this is"),
    Documented("get", "/v0/fanout", "How far nests are behind"),
    Documented("post", "/v0/fanout/retry", "Try failing tenants again"),
    Documented("get", "/v0/doctor", "What is wrong", query={"deep": FLAG_SCHEMA}),
    Documented("post", "/v0/doctor", "Deliver what is missing", body=closed(allow=NAMES_SCHEMA)),
    Documented("get", "/metrics", "Metrics for Prometheus", media="text/plain", answers={"200": {"type": "string"}}),
)


def paths(who: frozenset[str]) -> dict[str, Any]:
    """The paths that these callers may use."""
    found: dict[str, Any] = {}
    for route in ROUTES:
        if "admin" in who or route.who in who or route.who.startswith("anybody"):
            found.setdefault(route.path, {})[route.method] = operation(route)
    return found


def failures(*without: str) -> dict[str, Any]:
    """The answers that every operation may give when it fails."""
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {s: {"description": text, "content": error} for s, text in FAILURES.items() if s not in without}


def operation(route: Documented) -> dict[str, Any]:
    """One operation as OpenAPI has it."""
    path = route.path.split("/")
    within = [
        {"name": p[1:-1], "in": "path", "required": True, "schema": TEXT_SCHEMA} for p in path if p.startswith("{")
    ]
    query = [
        {"name": name, "in": "query", "required": name in route.required, "schema": schema}
        for name, schema in route.query.items()
    ]
    answers = {
        status: {"description": "Success", **({"content": {route.media: {"schema": schema}}} if schema else {})}
        for status, schema in route.answers.items()
    }
    found: dict[str, Any] = {
        "operationId": f"{route.method} {route.path}",
        "summary": route.summary,
        "parameters": [*within, *query],
        "responses": {**failures(), **answers},
    }
    if route.who == "anybody":
        found["security"] = []
    if route.body is not None:
        content = {kind: {"schema": route.body} for kind in route.kinds}
        found["requestBody"] = {"required": bool(route.body.get("required")), "content": content}
    return found
