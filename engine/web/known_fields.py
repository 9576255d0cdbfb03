"""Refuse keys, query parameters and content types that a route does not know."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from urllib.parse import quote

from starlette.requests import Request

from engine.errors import (
    BODY_TYPE,
    UNKNOWN_FIELD,
    Code,
    RookeryError,
    did_you_mean,
)
from engine.query.arguments import CLIENTS, CLIENTS_PREFIX

IGNORED_HEADER = "x-rookery-ignored-parameters"
MAX_IGNORED_NAMES, MAX_IGNORED_NAME_CHARACTERS = 10, 64
"""Maximum number of parameters in that header, and of characters of each."""
# Clients send JSON with these types unless they are configured otherwise. The body itself shows whether it is JSON.
_OBJECT_TYPES = frozenset(
    {
        "",
        "application/json",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "text/json",
        "text/plain",
    }
)
_SQL_TYPES = _OBJECT_TYPES | {"application/sql", "text/sql", "application/x-sql"}
_CHARSETS = frozenset({"", "utf-8", "utf8", "us-ascii"})


def is_sent_by_clients(name: str) -> bool:
    """Whether Tinybird's clients add a query parameter of this name to every request."""
    return name in CLIENTS or name.startswith(CLIENTS_PREFIX)


def check_names(noun: str, names: Iterable[str], known: Collection[str]) -> None:
    """Raise RK4029 if one of the names is unknown. `noun` says what the names are, such as "key"."""
    # Only the first one: the names come from the sender, who could send thousands.
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise unknown_name(noun, unknown, known)


def unknown_name(noun: str, name: str, known: Collection[str]) -> RookeryError:
    """The error for an unknown name, with the known ones as a hint."""
    names = f"known: {', '.join(sorted(known))}" if known else f"the route has no {noun}"
    meant = did_you_mean(name, known)
    hint = f"{meant} {names}" if meant else names
    return RookeryError(UNKNOWN_FIELD, f"unknown {noun} `{name[:80]}`", hint=hint)


def check_query(request: Request, known: Collection[str] = ()) -> None:
    """Refuse query parameters that a control route does not know. Raises RK4029."""
    check_names("query parameter", (n for n in request.query_params if not is_sent_by_clients(n)), known)


def check_object(request: Request) -> None:
    """Refuse a body that is declared as something other than a JSON object or a form. Raises RK4028."""
    _check_type(request, _OBJECT_TYPES, "send JSON, as application/json")


def check_sql(request: Request) -> None:
    """Refuse a body that is declared as something other than SQL, a JSON object or a form. Raises RK4028."""
    _check_type(request, _SQL_TYPES, "send SQL as text/plain, or JSON or a form with `q`")


def _check_type(request: Request, accepted: Collection[str], hint: str) -> None:
    """Raise RK4028 for a Content-Type that is not accepted, or a charset other than UTF-8."""
    header = request.headers.get("content-type", "")
    type = header.partition(";")[0].strip().lower()
    if type not in accepted and not (type.startswith("application/") and type.endswith("+json")):
        raise RookeryError(BODY_TYPE, f"a body of type `{type[:80]}` is not supported", hint=hint)
    check_charset(header, BODY_TYPE)


def check_charset(header: str, code: Code) -> None:
    """Raise an error for a Content-Type header that declares a charset other than UTF-8."""
    parameters = header.lower().split(";")[1:]
    charset = next((p.split("=", 1)[1].strip(' "') for p in parameters if p.strip().startswith("charset=")), "")
    if charset not in _CHARSETS:
        raise RookeryError(code, f"the charset `{charset[:40]}` is not supported", hint="send UTF-8")


def ignored_header(names: Collection[str]) -> dict[str, str]:
    """The header with parameters that had no effect, percent-encoded: the first names, and how many follow."""
    if not names:
        return {}
    shown = [
        # An encoded name has no quotes, so these can only mean an empty name, as in `?=3`.
        quote(name[:MAX_IGNORED_NAME_CHARACTERS], safe="", errors="replace") or '""'
        for name in sorted(names)[:MAX_IGNORED_NAMES]
    ]
    more = [f"+{len(names) - MAX_IGNORED_NAMES}"] if len(names) > MAX_IGNORED_NAMES else []
    return {IGNORED_HEADER: ", ".join([*shown, *more])}
