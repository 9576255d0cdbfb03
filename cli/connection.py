"""Connect commands to the workspace: to a running server, or to one that the command starts.

Either way a command sends HTTP requests, so both ways run the same code. In order of precedence: `--url` (or
ROOKERY_URL), the access that `rookery auth` stored, a server that runs on this directory, a server in this process.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from cli import interrupts, output
from cli.http_client import httpx
from cli.state_files import announced, auth_file, server_file
from cli.trust import is_trusted
from engine import errors
from engine.errors import (
    DIRECTORY_BUSY,
    NO_DATABASE,
    NO_SERVER,
    NO_TOKEN,
    REMOTE,
    UNTRUSTED,
    USAGE,
    Code,
    Place,
    Problems,
    RookeryError,
)
from engine.private_files import is_own, read_json, read_small
from engine.settings import Settings

_TOKEN = re.compile(r"[!-~]+")
NDJSON = "application/x-ndjson"
RETRY_SECONDS = 0.1
"""Seconds between two attempts to open a directory that another process holds."""
MAX_SHOWN_URL = 200
"""Longest part of a URL in a message."""
NOTICE_AFTER_SECONDS = 2.0
"""Seconds of waiting after which a message is printed."""
HTTP_TIMEOUT = httpx.Timeout(600.0, connect=5.0)


def _ignore(_plan: Any) -> None:
    """Show no plan."""


@dataclass(slots=True)
class Connection:
    """A client of one server with one token."""

    http: httpx.Client
    url: str
    token: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    temporary: bool = False
    """Whether the server runs in this process and stops when the command ends."""

    def request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """The response to a request. Raises the error in it with its original code."""
        try:
            response = self.http.request(method, path, **kwargs)
        except httpx.HTTPError as exc:
            raise _unreachable(self.url, exc) from exc
        if response.status_code >= 400:
            raise _error(response.status_code, response.content)
        return response

    def json(self, method: str, path: str, **kwargs: Any) -> Any:
        """The JSON in the response to a request."""
        response = self.request(method, path, **kwargs)
        if response.status_code == 204:
            return {}
        try:
            return orjson.loads(response.content)
        except orjson.JSONDecodeError as exc:
            raise RookeryError(
                REMOTE, f"{shown_url(self.url)} did not answer with JSON", hint="is it a rookery server?"
            ) from exc

    def download(self, method: str, path: str, file: Path) -> None:
        """Write the body of a response to a file. Raises the error in the response, and OSError."""
        try:
            with self.http.stream(method, path) as response, file.open("wb") as target:
                if response.status_code >= 400:
                    raise _error(response.status_code, response.read())
                for chunk in response.iter_raw():
                    target.write(chunk)
        except httpx.HTTPError as exc:
            raise _unreachable(self.url, exc) from exc

    def watched(self, path: str, body: Any, progress: output.Update, planned: Callable[[Any], None] = _ignore) -> Any:
        """The result of a POST that starts long work. See `watch`."""
        return self.watch("POST", path, progress, planned, json=body)

    def watch(
        self,
        method: str,
        path: str,
        progress: output.Update,
        planned: Callable[[Any], None] = _ignore,
        **kwargs: Any,
    ) -> Any:
        """The result of a request of long work; {} if it has none.

        `progress` is called for each of its progress lines, and `planned` with what it is about to do.
        """
        headers = {"accept": NDJSON}
        try:
            with self.http.stream(method, path, headers=headers, **kwargs) as response:
                if response.status_code >= 400:
                    raise _error(response.status_code, response.read())
                # Servers that do not report the progress of this work.
                if response.status_code == 204:
                    return {}
                if NDJSON not in response.headers.get("content-type", ""):
                    return orjson.loads(response.read())
                # Read to its end, even after the result: otherwise the server sees a client that has disconnected.
                result: list[Any] = []
                for line in response.iter_lines():
                    event = orjson.loads(line)
                    if "plan" in event:
                        planned(event["plan"])
                    elif "progress" in event:
                        step = event["progress"]
                        progress(step["what"], step["done"], step["total"])
                    elif "failure" in event:
                        raise _rebuilt(event["failure"].pop("status"), event["failure"])
                    else:
                        result.append({} if event["result"] is None else event["result"])
                if result:
                    return result[0]
        except httpx.HTTPError as exc:
            raise _unreachable(self.url, exc) from exc
        raise RookeryError(REMOTE, "the server closed the connection without a result", hint="run the command again")


def not_understood(url: str, exc: Exception) -> RookeryError:
    """The error for a response that is JSON, but not that of this version of rookery."""
    return RookeryError(
        REMOTE,
        f"the answer of {shown_url(url)} is not as expected: {repr(exc)[:200]}",
        hint="is it a rookery server of this version?",
    )


def _unreachable(url: str, exc: Exception) -> RookeryError:
    """The error for a server that did not respond, with a hint about the likely cause."""
    url = shown_url(url)
    hint = "is `rookery serve` running there?"
    if isinstance(exc, httpx.UnsupportedProtocol):
        address = url.partition("://")[2] or url
        hint = f"a URL must start with http:// or https://, for example http://{address}"
    elif isinstance(exc, httpx.LocalProtocolError | httpx.InvalidURL):
        hint = "for example http://127.0.0.1:7181"
    elif isinstance(exc, httpx.RemoteProtocolError | httpx.ReadError | httpx.ReadTimeout):
        return RookeryError(
            NO_SERVER,
            f"the connection to {url} broke before the answer was complete",
            hint="the command may have been completed: look before you repeat it",
            detail=repr(exc),
        )
    elif "SSL" in str(exc):
        hint = f"the server does not use https: try {url.replace('https:', 'http:', 1)}"
    return RookeryError(NO_SERVER, f"no answer from {url}", hint=hint, detail=repr(exc))


def _error(status: int, body: bytes) -> RookeryError:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        content = {"error": body[:200].decode(errors="replace")}
    return _rebuilt(status, content if isinstance(content, dict) else {"error": str(content)})


def _rebuilt(status: int, body: Mapping[str, Any]) -> RookeryError:
    """The server's error as an exception."""
    listed = body.get("errors")
    # A proxy may have sent the error, in a form of its own.
    problems = [e for e in listed if isinstance(e, dict)] if isinstance(listed, list) else []
    if len(problems) > 1:
        return Problems([_rebuilt(status, e) for e in problems])
    code = errors.codes().get(str(body.get("code")), Code(REMOTE.id, status, REMOTE.title))
    place = Place(part=body["place"]) if body.get("place") else None
    hint = "--token, ROOKERY_TOKEN, or rookery auth" if code.id == NO_TOKEN.id else body.get("hint")
    exc = RookeryError(code, str(body.get("error", "unknown error")), hint=hint, place=place)
    exc.documentation = str(body["documentation"]) if body.get("documentation") else None
    return exc


@contextmanager
def connected(settings: Settings, *, create: bool, keep: bool) -> Iterator[Connection]:
    """See `cli.connect.connect`."""
    with ExitStack() as stack:
        try:
            connection = _connected(settings, stack, create=create and keep)
        except RookeryError as exc:
            if not create or keep or exc.code.id != NO_DATABASE.id:
                raise
            from engine.warehouse.unfinished import scratch_directory

            output.say(f"{exc.message}: comparing with an empty one", "yellow")
            stack.enter_context(interrupts.raised())
            temporary = {"data": stack.enter_context(scratch_directory()).path / "data", "clickhouse_url": None}
            connection = _connected(settings.model_copy(update=temporary), stack, create=True)
        yield connection
        interrupts.ignore()


def _connected(settings: Settings, stack: ExitStack, *, create: bool) -> Connection:
    """A connection that the stack closes. Waits while another process holds the directory."""
    _warn_of_copy(settings)
    wait = Wait(settings)
    while True:
        remote = _remote(settings)
        if remote is not None:
            stack.enter_context(interrupts.raised())
            return stack.enter_context(client(*remote))
        running = announced(settings)
        if running is not None and running.starting and wait.retry(f"the server (process {running.pid}) to start"):
            continue
        # Importing the engine takes almost a second. Commands for a running server do not need it.
        from cli.embedded_server import local_server

        stack.enter_context(interrupts.raised())
        try:
            url, token = stack.enter_context(local_server(settings, create=create))
        except RookeryError as exc:
            if not is_held(exc) or not wait.retry(exc.message):
                raise
            continue
        connection = stack.enter_context(client(url, token))
        connection.temporary = True
        return connection


class Wait:
    """A bounded wait for another process, with a message when it takes long."""

    def __init__(self, settings: Settings) -> None:
        self._started = time.monotonic()
        self._timeout_seconds = settings.wait_seconds
        self._announced = False

    def retry(self, reason: str) -> bool:
        """Wait a moment before the next attempt; False when the time is up."""
        waited = time.monotonic() - self._started
        if waited >= self._timeout_seconds:
            return False
        if waited > NOTICE_AFTER_SECONDS and not self._announced:
            self._announced = True
            output.say(f"waiting: {reason}", "dim")
        time.sleep(RETRY_SECONDS)
        return True


def is_held(exc: RookeryError) -> bool:
    """Whether the error says that another process holds the directory, so that a later attempt may succeed."""
    return exc.code.id == DIRECTORY_BUSY.id and "Retry-After" in exc.headers


def _warn_of_copy(settings: Settings) -> None:
    """Print a warning if `server.json` was copied here with another server's directory."""
    running = announced(settings)
    if running is not None and not running.here and running.url and not settings.url:
        file = server_file(settings)
        output.say(
            f"warning: ignoring {file}: it names a server of {running.directory}. "
            f"To use that server: --url {running.url}",
            "yellow",
        )


def _remote(settings: Settings) -> tuple[str, str | None] | None:
    """The URL and token of a running server, or None."""
    token = settings.token.get_secret_value() if settings.token else None
    if settings.url:
        return settings.url, token
    stored = read_json(auth_file(settings))
    if stored is not None and "url" in stored:
        if not is_trusted(auth_file(settings), stored):
            raise _untrusted(
                str(stored["url"]), auth_file(settings), "if it is yours: rookery auth --url URL --token TOKEN"
            )
        return str(stored["url"]), token or str(stored.get("token", ""))
    running = announced(settings)
    if running is not None and running.here and running.url and is_running(running.url):
        return running.url, _local_token(settings, running.url, token)
    return None


def _local_token(settings: Settings, url: str, token: str | None) -> str:
    """The token for the server of this directory. Raises RK7008 if the server's file may name another one."""
    if token is None and settings.admin_token:
        token = settings.admin_token.get_secret_value()
    file, admin_file = server_file(settings), settings.admin_file
    # The admin token in the directory of another user may be a link to a secret of this one.
    if not is_own(file) and (token is not None or admin_file.stat().st_uid != file.stat().st_uid):
        raise _untrusted(url, file, "run the command as the user of the server")
    return token or read_small(admin_file).strip()


def _untrusted(url: str, file: Path, remedy: str) -> RookeryError:
    """The error for a command that would send data or a token to a URL that others may have chosen."""
    return RookeryError(
        UNTRUSTED,
        f"nothing is sent to {shown_url(url)}: others may have written {file}",
        hint=f"{remedy}; otherwise remove the file, or set ROOKERY_URL",
    )


def shown_url(url: str) -> str:
    """A URL for a message, without a user and a password."""
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}"[:MAX_SHOWN_URL]


def is_running(url: str) -> bool:
    """Whether a server runs at a URL. One that is too busy to respond in time counts."""
    try:
        return (
            httpx.get(f"{url}/live", timeout=5.0, trust_env=False, verify=needs_certificates(url)).status_code == 200
        )
    except httpx.TimeoutException:
        return True
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return False


def needs_certificates(url: str) -> bool:
    """Whether a connection needs CA certificates, which take a while to load."""
    return not url.lower().startswith("http://")


@contextmanager
def client(url: str, token: str | None) -> Iterator[Connection]:
    """A connection to a server with a token."""
    # A token that was read from a file may end with a line break.
    token = token.strip() if token else None
    if token and not _TOKEN.fullmatch(token):
        raise RookeryError(
            USAGE,
            "the token has spaces, line breaks or characters that are not ASCII, so it cannot be sent",
            hint="set --token or ROOKERY_TOKEN to a whole token, and to nothing else",
        )
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        http = httpx.Client(
            base_url=url, headers=headers, timeout=HTTP_TIMEOUT, trust_env=False, verify=needs_certificates(url)
        )
        # Names that cannot be looked up otherwise fail in the first request.
        http.base_url.host.encode("idna")
    except (httpx.InvalidURL, ValueError, TypeError) as exc:
        raise RookeryError(NO_SERVER, f"not a URL: {shown_url(url)}", hint="http://127.0.0.1:7181") from exc
    with http:
        yield Connection(http, url, token)
