"""What control routes and queries may be sent: keys that they know, and content types that they understand."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from urllib.parse import quote

from starlette.requests import Request

from engine.errors import BODY_TYPE, UNKNOWN_FIELD, RookeryError
from engine.query.arguments import CLIENTS, CLIENTS_PREFIX

IGNORED_HEADER = "x-rookery-ignored-parameters"
MOST_NAMED, LONGEST_NAME = 10, 64
# What clients send with JSON when nobody told them otherwise counts as JSON: the text itself decides.
_OBJECTS = frozenset(
    {
        "",
        "application/json",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "text/json",
        "text/plain",
    }
)
_TEXTS = _OBJECTS | {"application/sql", "text/sql", "application/x-sql"}
_CHARSETS = frozenset({"", "utf-8", "utf8", "us-ascii"})


def of_clients(name: str) -> bool:
    """Whether clients send a query parameter of this name by themselves."""
    return name in CLIENTS or name.startswith(CLIENTS_PREFIX)


def check_names(what: str, given: Iterable[str], known: Collection[str]) -> None:
    """Refuse what a route does not know, with what it does. Raises RK4029."""
    unknown = next((name for name in given if name not in known), None)
    if unknown is not None:
        raise unknown_name(what, unknown, known)


def unknown_name(what: str, name: str, known: Collection[str]) -> RookeryError:
    """The error for a name that a route does not know."""
    hint = f"known here: {', '.join(sorted(known))}" if known else "there are none here"
    return RookeryError(UNKNOWN_FIELD, f"unknown {what} `{name[:80]}`", hint=hint)


def check_query(request: Request, known: Collection[str] = ()) -> None:
    """Refuse query parameters that a control route does not know. Raises RK4029."""
    check_names("query parameter", (n for n in request.query_params if not of_clients(n)), known)


def check_object(request: Request) -> None:
    """Refuse a body that is declared as something other than a JSON object or a form. Raises RK4028."""
    _check_type(request, _OBJECTS, "send JSON, as application/json")


def check_sql(request: Request) -> None:
    """Refuse a body that is declared as something other than SQL, a JSON object or a form. Raises RK4028."""
    _check_type(request, _TEXTS, "send SQL as text/plain, or JSON or a form with `q`")


def _check_type(request: Request, understood: Collection[str], hint: str) -> None:
    declared, *parameters = request.headers.get("content-type", "").lower().split(";")
    kind = declared.strip()
    charset = next((p.split("=", 1)[1].strip(' "') for p in parameters if p.strip().startswith("charset=")), "")
    if kind not in understood and not (kind.startswith("application/") and kind.endswith("+json")):
        raise RookeryError(BODY_TYPE, f"a body of type `{kind[:80]}` is not understood here", hint=hint)
    if charset not in _CHARSETS:
        raise RookeryError(BODY_TYPE, f"text in `{charset[:40]}` is not understood", hint="send UTF-8")


def ignored_header(names: Collection[str]) -> dict[str, str]:
    """The header that names parameters without effect, percent-encoded: the first few, and how many more."""
    if not names:
        return {}
    shown = [quote(name[:LONGEST_NAME], safe="", errors="replace") for name in sorted(names)[:MOST_NAMED]]
    more = [f"+{len(names) - MOST_NAMED}"] if len(names) > MOST_NAMED else []
    return {IGNORED_HEADER: ", ".join([*shown, *more])}
