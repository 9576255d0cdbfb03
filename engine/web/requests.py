"""Reads requests: the token and headers, parameters from the query and the body, and bodies of limited size."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import anyio
import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope

from engine.errors import BAD_ENCODING, BAD_REQUEST, TOO_LARGE, TOO_SLOW, RookeryError
from engine.ingest.formats.compression import OUTPUT_BYTES, Decompressor
from engine.ingest.memory_budget import MemoryBudget
from engine.query.arguments import Repeated
from engine.web.known_fields import check_object, check_sql

MAX_PARAMETERS = 1000
MAX_PARAMETER_LISTS = 100_000
"""Maximum number of lists and objects in a body with parameters: parsing them stops all other requests."""
SLOW_BODY_SECONDS, STEADY_BYTES_PER_SECOND = 2.0, 256 << 10
"""How long a body may pause, and how fast it has to arrive on average, while others need its memory."""
MAX_KEY_CHARACTERS = 255
"""Longest idempotency key."""
TENANT_HEADER = "x-rookery-tenant"
"""The header by which an admin runs a query as a tenant."""
_UNREPEATABLE_HEADERS = (b"authorization", b"idempotency-key", TENANT_HEADER.encode())
"""Headers that must not be sent with two values, because it would be unclear which one applies."""
_GZIP_MAGIC = b"\x1f\x8b"
_FORM = re.compile(rb"[A-Za-z_]\w*=")
_HEAD_KEY = "rookery.head"


@dataclass(slots=True)
class Head:
    """The headers of a request, by name in lower case, and the parameters of its query in order.

    Each accessor raises RK4009 for a value that is not valid.
    """

    headers: dict[bytes, bytes]
    parameters: list[tuple[str, str]]

    def token(self) -> str | None:
        """The token, from `Authorization: Bearer` or `?token=`. Two different tokens are refused."""
        scheme, _, value = self.headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        bearer = value.strip() if scheme.lower() == "bearer" else None
        in_query = _once("token", (value for name, value in self.parameters if name == "token"))
        if bearer and in_query and bearer != in_query:
            raise RookeryError(BAD_REQUEST, "the Authorization header and the query have different tokens")
        return bearer or in_query

    def idempotency_key(self) -> str | None:
        key = self.headers.get(b"idempotency-key")
        return None if key is None else checked_key(key.decode("latin-1"))

    def impersonated_tenant(self) -> str | None:
        """The tenant as which an admin runs the query."""
        tenant = self.headers.get(TENANT_HEADER.encode())
        try:
            return None if tenant is None else tenant.decode()
        except UnicodeDecodeError as exc:
            raise RookeryError(BAD_REQUEST, f"the header `{TENANT_HEADER}` is not UTF-8") from exc

    def query(self, lists: Collection[str] = ()) -> dict[str, str]:
        """The query without `lists`, the names that may be repeated. Any other must have the same value each time."""
        values: dict[str, str] = {}
        for name, value in self.parameters:
            if name not in lists and values.setdefault(name, value) != value:
                raise RookeryError(BAD_REQUEST, f"parameter `{name[:80]}` has two values")
        return values


def head_of(scope: Scope) -> Head:
    """The head of a request, parsed once.

    Raises RK4009 for two values of a header that must have only one, and for too many parameters.
    """
    head: Head | None = scope.get(_HEAD_KEY)
    if head is None:
        # Before the token is checked, so the number of parameters is limited: a URL has room for 30,000.
        query = _pairs(scope["query_string"].decode("latin-1"))
        head = scope[_HEAD_KEY] = Head(_headers(scope["headers"]), query)
    return head


def _pairs(text: str, *, strict: bool = False) -> list[tuple[str, str]]:
    """The parameters in a query or, with `strict`, in a form. Raises RK4009, and ValueError for a text that is not a
    form.
    """
    if text.count("&") >= MAX_PARAMETERS:
        raise _too_many_parameters()
    try:
        return parse_qsl(text, keep_blank_values=True, strict_parsing=strict, errors="strict")
    except UnicodeDecodeError as exc:
        # Otherwise different values would become the same one, with replacement characters.
        raise RookeryError(BAD_REQUEST, "the parameters are not UTF-8") from exc


def _headers(pairs: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The first value of each header."""
    headers = dict(reversed(pairs))
    if len(headers) != len(pairs):
        for name in _UNREPEATABLE_HEADERS:
            if any(n == name and value != headers[name] for n, value in pairs):
                raise RookeryError(BAD_REQUEST, f"the header `{name.decode()}` has two values")
    return headers


def checked_key(key: str) -> str:
    """An idempotency key. Raises RK4009 for one that is empty, too long or not printable ASCII."""
    if not (0 < len(key) <= MAX_KEY_CHARACTERS and key.isascii() and key.isprintable()):
        raise RookeryError(
            BAD_REQUEST, f"an Idempotency-Key must be 1 to {MAX_KEY_CHARACTERS} printable ASCII characters"
        )
    return key


async def body_of(request: Request, limit: int) -> bytes:
    """An uncompressed body of at most `limit` bytes. Raises RK4009, RK5004 and RK5007."""
    _refuse_announced_length(request, limit)
    if request.headers.get("content-encoding", "identity").lower() not in {"identity", ""}:
        raise RookeryError(BAD_ENCODING, "the body is compressed", hint="send it without Content-Encoding")
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            chunks.append(chunk)
    except ClientDisconnect as exc:
        raise _disconnected() from exc
    body = b"".join(chunks)
    if body.startswith(_GZIP_MAGIC):
        raise RookeryError(BAD_ENCODING, "the body is compressed", hint="send it without gzip")
    return body


async def append_body(request: Request, limit: int, budget: MemoryBudget) -> bytes:
    """A body of rows, decompressed; its memory is reserved. Raises RK5004, RK5007 and RK5010."""
    _refuse_announced_length(request, limit)
    return b"".join([chunk async for chunk in decompressed_chunks(request, limit, budget)])


async def decompressed_chunks(request: Request, limit: int, budget: MemoryBudget) -> AsyncIterator[bytes]:
    """The chunks of a body as they arrive, decompressed; memory is reserved for each before it is returned.

    Raises RK4024 for a body that arrives slowly while others need its memory.
    """
    decompressor = Decompressor(request.headers.get("content-encoding", ""), limit)
    try:
        async for received in Request(request.scope, _receive_steadily(request.receive, budget)).stream():
            for chunk in decompressor.decompress(received):
                budget.reserve(len(chunk))
                budget.resize_window(decompressor.window_bytes)
                yield chunk
                if len(chunk) == OUTPUT_BYTES:
                    # A few bytes can decompress to many chunks, so let other requests run in the meantime.
                    await anyio.sleep(0)
    except ClientDisconnect as exc:
        raise _disconnected() from exc
    budget.resize_window(0)
    if last := decompressor.finish():
        budget.reserve(len(last))
        yield last


def _receive_steadily(receive: Receive, budget: MemoryBudget) -> Receive:
    """Receives a body. Raises RK4024 if its client is slow while others need the memory of what has arrived."""
    patience = SLOW_BODY_SECONDS

    async def receive_message() -> Message:
        nonlocal patience
        message: Message | None = None
        while message is None:
            since = anyio.current_time()
            with anyio.move_on_after(SLOW_BODY_SECONDS):
                message = await receive()
            arrived = len(message.get("body", b"")) if message else 0
            patience += arrived / STEADY_BYTES_PER_SECOND - (anyio.current_time() - since)
            patience = min(patience, SLOW_BODY_SECONDS)
            if patience < 0 and budget.is_needed:
                text = "the request's body arrived too slowly while others needed its memory"
                raise RookeryError(TOO_SLOW, text, hint="send it again, in parts")
        return message

    return receive_message


def _refuse_announced_length(request: Request, limit: int) -> None:
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise _too_large(limit)


def _too_large(limit: int) -> RookeryError:
    return RookeryError(TOO_LARGE, f"the body is larger than {limit:,} bytes", hint="send it in parts")


def _disconnected() -> RookeryError:
    return RookeryError(BAD_REQUEST, "the client disconnected before the body was complete")


async def json_of(request: Request, limit: int) -> dict[str, Any]:
    """A JSON object from the body; an empty body is an empty object. Raises RK4009, RK4028 and RK5004."""
    body = await body_of(request, limit)
    if not body.strip():
        return {}
    check_object(request)
    return _json_object(body)


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise RookeryError(BAD_REQUEST, f"the body is not valid JSON: {exc}") from exc
    if not isinstance(parsed, dict):
        raise RookeryError(BAD_REQUEST, "the body must be a JSON object")
    # orjson silently keeps the last of several values. The other parser may have lower limits for digits and depth.
    try:
        json.loads(body, object_pairs_hook=_with_distinct_keys, parse_int=str, parse_float=str)
    except RecursionError as exc:
        raise RookeryError(BAD_REQUEST, "the body is nested too deeply") from exc
    return parsed


def _with_distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object with these keys and values. Raises RK4009 for a key that occurs more than once."""
    result = dict(pairs)
    if len(result) < len(pairs):
        name = next(n for n, times in Counter(n for n, _ in pairs).items() if times > 1)
        raise RookeryError(
            BAD_REQUEST, f"the body has the key `{name[:80]}` more than once", hint="send each key once"
        )
    return result


async def parameters_of(request: Request, limit: int) -> dict[str, Any]:
    """A pipe's parameters: the query, overridden by a JSON or form body. Repeated parameters are `Repeated`."""
    parameters = _with_repeated(head_of(request.scope).parameters)
    if request.method == "POST":
        body = await body_of(request, limit)
        if body.strip():
            check_object(request)
            parameters.update(_body_parameters(body))
    _require_single(parameters, "token", "q")
    if "q" in parameters:
        raise RookeryError(BAD_REQUEST, "an endpoint has no parameter `q`", hint="SQL over endpoints: /v0/sql")
    if len(parameters) > MAX_PARAMETERS:
        raise _too_many_parameters()
    return parameters


def _too_many_parameters() -> RookeryError:
    return RookeryError(BAD_REQUEST, f"more than {MAX_PARAMETERS} parameters")


async def sql_of(request: Request, limit: int) -> tuple[str, dict[str, Any]]:
    """Ad-hoc SQL and its parameters. The SQL is in `q` (in the query string, a form or a JSON object), or it is the
    raw body.
    """
    parameters = _with_repeated(head_of(request.scope).parameters)
    if request.method == "POST":
        body = (await body_of(request, limit)).strip()
        if body:
            check_sql(request)
        in_url = parameters.pop("q", None)
        # SQL never begins with a brace, or with a name and an equals sign.
        if body.startswith(b"{") or _FORM.match(body):
            parameters.update(_body_parameters(body))
        elif body:
            parameters["q"] = _utf8(body)
        if in_url is not None and parameters.setdefault("q", in_url) != in_url:
            raise RookeryError(BAD_REQUEST, "the URL and the body have different SQL", hint="send one of them")
    _require_single(parameters, "token", "q")
    text = parameters.pop("q", None)
    if not isinstance(text, str) or not text.strip():
        raise RookeryError(BAD_REQUEST, "the request has no SQL", hint="q=SELECT …, or the SQL as the body")
    return text, parameters


def _utf8(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as exc:
        raise RookeryError(BAD_REQUEST, "the body is not UTF-8") from exc


def _body_parameters(body: bytes) -> dict[str, Any]:
    """Parameters in a JSON object or a form. Raises RK4009."""
    # Clients send wrong content types, so the body itself determines whether it is JSON or a form.
    if body.lstrip().startswith(b"{"):
        if body.count(b"[") + body.count(b"{") > MAX_PARAMETER_LISTS:
            raise RookeryError(BAD_REQUEST, f"the body has more than {MAX_PARAMETER_LISTS:,} lists and objects")
        return _json_object(body)
    try:
        pairs = _pairs(body.decode(), strict=True)
    except ValueError as exc:
        raise RookeryError(BAD_REQUEST, "the body is neither a JSON object nor a form") from exc
    return _with_repeated(pairs)


def _with_repeated(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Parameters by name; those that occur more than once are `Repeated`."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name not in values:
            values[name] = value
        elif isinstance(values[name], Repeated):
            values[name].append(value)
        else:
            values[name] = Repeated([values[name], value])
    return values


def _require_single(parameters: dict[str, Any], *names: str) -> None:
    """Replace repeated values of parameters that cannot be lists. Raises RK4009 if they differ."""
    for name in names:
        value = parameters.get(name)
        if isinstance(value, Repeated):
            parameters[name] = _once(name, value)


def _once(name: str, values: Iterable[Any]) -> Any:
    """The only value among repeated ones, or None. Raises RK4009 for two different values."""
    single = None
    for number, value in enumerate(values):
        if number and value != single:
            raise RookeryError(BAD_REQUEST, f"parameter `{name}` has two values")
        single = value
    return single


def flag(value: str | None, default: bool, name: str) -> bool:
    """The boolean value of the query parameter `name`. Raises RK4009."""
    if value is None:
        return default
    if value.lower() in {"true", "1"}:
        return True
    if value.lower() in {"false", "0"}:
        return False
    message = f"parameter `{name}` must be true or false, got {value[:40]!r}"
    raise RookeryError(BAD_REQUEST, message, hint="true, 1, false or 0")
