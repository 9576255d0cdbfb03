"""Reading requests: the token, parameters from wherever they came, and bodies of bounded size."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import anyio
import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.types import Scope

from engine.errors import BAD_ENCODING, BAD_REQUEST, TOO_LARGE, RookeryError
from engine.ingest.formats.compression import OUTPUT_BYTES, Decompressor
from engine.ingest.gateway import MemoryBudget
from engine.query.arguments import Repeated
from engine.web.known_fields import check_object, check_sql

MAX_PARAMETERS = 1000
_FORM = re.compile(rb"[A-Za-z_]\w*=")
TENANT_HEADER = "x-rookery-tenant"
"""Header by which an admin looks through a tenant's eyes."""
_ONCE = (b"authorization", b"idempotency-key", TENANT_HEADER.encode())
"""Headers that are not given with two values."""
MAX_KEY_CHARACTERS = 255
"""Header under which an append is stored once, however often it is sent."""


@dataclass(slots=True)
class Head:
    """What a request begins with: its headers by their names in lower case, and its query, each name once."""

    headers: dict[bytes, bytes]
    query: dict[str, str]

    def token(self) -> str | None:
        """The token: `Authorization: Bearer` or `?token=`. Raises RK4009 when they differ."""
        return _token(self.headers.get(b"authorization", b"").decode("latin-1"), self.query.get("token"))

    def key(self) -> str | None:
        """The idempotency key. Raises RK4009 for one that is empty, too long or not printable."""
        key = self.headers.get(b"idempotency-key")
        return None if key is None else checked_key(key.decode("latin-1"))


def head_of(scope: Scope) -> Head:
    """A request's head. Raises RK4009 for a name with two values in the query."""
    query: dict[str, Any] = {}
    _add(query, parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
    return Head(_headers_of(scope), query)


def _headers_of(scope: Scope) -> dict[bytes, bytes]:
    """The headers of a request, the first of each name. Raises RK4009 for two values of one that has one."""
    given: list[tuple[bytes, bytes]] = scope["headers"]
    found = dict(reversed(given))
    if len(found) != len(given):
        for name in _ONCE:
            if any(n == name and value != found[name] for n, value in given):
                raise RookeryError(BAD_REQUEST, f"the header `{name.decode()}` is given twice")
    return found


def token_of(request: Request) -> str | None:
    """The token of a request: `Authorization: Bearer` or `?token=`. Raises RK4009 when they differ."""
    _headers_of(request.scope)
    return _token(request.headers.get("authorization", ""), request.query_params.get("token"))


def _token(header: str, query: str | None) -> str | None:
    scheme, _, value = header.partition(" ")
    bearer = value.strip() if scheme.lower() == "bearer" else None
    if bearer and query and bearer != query:
        raise RookeryError(BAD_REQUEST, "the header and the query carry different tokens")
    return bearer or query


def eyes_of(request: Request) -> str | None:
    """The tenant through whose eyes an admin looks. Raises RK4009 for a header that is not UTF-8."""
    given = request.headers.get(TENANT_HEADER)
    try:
        return None if given is None else given.encode("latin-1").decode()
    except UnicodeDecodeError as exc:
        raise RookeryError(BAD_REQUEST, f"the header `{TENANT_HEADER}` is not UTF-8") from exc


async def body_of(request: Request, limit: int) -> bytes:
    """The body, at most `limit` bytes. Raises RK5004."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise _too_large(limit)
    if request.headers.get("content-encoding", "identity").lower() not in {"identity", ""}:
        raise RookeryError(BAD_ENCODING, "the body is compressed", hint="send it without Content-Encoding")
    parts: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            parts.append(chunk)
    except ClientDisconnect as exc:
        raise RookeryError(BAD_REQUEST, "the caller left before the end of the body") from exc
    body = b"".join(parts)
    if body.startswith(b"\x1f\x8b"):
        raise RookeryError(BAD_ENCODING, "the body is compressed", hint="send it as it is, without gzip")
    return body


async def append_body(request: Request, limit: int, room: MemoryBudget) -> bytes:
    """A body of rows, opened if it is compressed, with room taken for it. Raises RK5004, RK5007, RK5010."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise _too_large(limit)
    return b"".join([piece async for piece in opened_chunks(request, limit, room)])


async def opened_chunks(request: Request, limit: int, room: MemoryBudget) -> AsyncIterator[bytes]:
    """A body's pieces as they arrive, opened; room is taken for each."""
    decompressor = Decompressor(request.headers.get("content-encoding", ""), limit)
    try:
        async for chunk in request.stream():
            for piece in decompressor.decompress(chunk):
                room.take(len(piece))
                yield piece
                if len(piece) == OUTPUT_BYTES:
                    # A small chunk may open to many pieces; others have their turn in between.
                    await anyio.sleep(0)
    except ClientDisconnect as exc:
        raise RookeryError(BAD_REQUEST, "the caller left before the end of the body") from exc
    if left := decompressor.finish():
        room.take(len(left))
        yield left


def _too_large(limit: int) -> RookeryError:
    return RookeryError(TOO_LARGE, f"the body is larger than {limit:,} bytes", hint="send it in parts")


async def json_of(request: Request, limit: int) -> dict[str, Any]:
    """A JSON object from the body; an empty body is an empty object. Raises RK4009, RK4028, RK5004."""
    body = await body_of(request, limit)
    if not body.strip():
        return {}
    check_object(request)
    return _object(body)


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise RookeryError(BAD_REQUEST, f"the body is not valid JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise RookeryError(BAD_REQUEST, "the body must be a JSON object")
    return found


def query_of(request: Request) -> dict[str, str]:
    """The query string, each name once. Raises RK4009 for a name with two values."""
    found: dict[str, Any] = {}
    _add(found, request.query_params.multi_items())
    return found


async def parameters_of(request: Request, limit: int) -> dict[str, Any]:
    """A pipe's parameters: the query string, over it a JSON or form body. A name given twice is `Repeated`."""
    found = _repeated(request.query_params.multi_items())
    if request.method == "POST":
        body = await body_of(request, limit)
        if body.strip():
            check_object(request)
            found.update(_body_parameters(body))
    _alone(found)
    if "q" in found:
        raise RookeryError(BAD_REQUEST, "an endpoint takes no `q`", hint="SQL over endpoints: /v0/sql")
    if len(found) > MAX_PARAMETERS:
        raise RookeryError(BAD_REQUEST, f"more than {MAX_PARAMETERS} parameters")
    return found


async def sql_of(request: Request, limit: int) -> tuple[str, dict[str, Any]]:
    """Ad-hoc SQL and its parameters: in `q` of the query, a form or a JSON object, or as the raw body."""
    found = _repeated(request.query_params.multi_items())
    if request.method == "POST":
        body = (await body_of(request, limit)).strip()
        if body:
            check_sql(request)
        # No SQL begins with a brace, or with a name and an equals sign.
        if body.startswith(b"{") or _FORM.match(body):
            found.update(_body_parameters(body))
        elif body:
            found["q"] = _text(body)
    _alone(found)
    text = found.pop("q", None)
    if not isinstance(text, str) or not text.strip():
        raise RookeryError(BAD_REQUEST, "no SQL given", hint="q=SELECT …, or the SQL as the body")
    return text, found


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as exc:
        raise RookeryError(BAD_REQUEST, "the body is not UTF-8") from exc


def _body_parameters(body: bytes) -> dict[str, Any]:
    # Clients send wrong content types, so the text itself decides.
    if body.lstrip().startswith(b"{"):
        return _object(body)
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True, max_num_fields=MAX_PARAMETERS)
    except ValueError as exc:
        raise RookeryError(BAD_REQUEST, "the body is neither a JSON object nor a form") from exc
    return _repeated(pairs)


def _repeated(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name not in found:
            found[name] = value
        elif isinstance(found[name], Repeated):
            found[name].append(value)
        else:
            found[name] = Repeated([found[name], value])
    return found


def _alone(found: dict[str, Any]) -> None:
    """Refuse two tokens or two texts of SQL: they are no parameters that could be lists. Raises RK4009."""
    for name in ("token", "q"):
        value = found.get(name)
        if isinstance(value, Repeated):
            if any(other != value[0] for other in value):
                raise RookeryError(BAD_REQUEST, f"parameter `{name}` is given twice")
            found[name] = value[0]


def _add(found: dict[str, Any], pairs: list[tuple[str, str]]) -> None:
    for name, value in pairs:
        if name in found and found[name] != value:
            raise RookeryError(BAD_REQUEST, f"parameter `{name[:80]}` is given twice")
        found[name] = value


def flag(value: str | None, default: bool, name: str = "") -> bool:
    """The boolean value of the query parameter `name`. Raises RK4009."""
    if value is None:
        return default
    if value.lower() in {"true", "1"}:
        return True
    if value.lower() in {"false", "0"}:
        return False
    what = f"parameter `{name}` must be true or false" if name else "a flag must be true or false"
    raise RookeryError(BAD_REQUEST, f"{what}, got {value[:40]!r}", hint="true, 1, false or 0")


def key_of(request: Request) -> str | None:
    """The request's idempotency key. Raises RK4009 for one that is empty, too long or not printable."""
    key = request.headers.get("idempotency-key")
    return None if key is None else checked_key(key)


def checked_key(key: str) -> str:
    """An idempotency key. Raises RK4009 for one that is empty, too long or not printable."""
    if not (0 < len(key) <= MAX_KEY_CHARACTERS and key.isascii() and key.isprintable()):
        raise RookeryError(BAD_REQUEST, f"an Idempotency-Key is 1 to {MAX_KEY_CHARACTERS} printable ASCII characters")
    return key
