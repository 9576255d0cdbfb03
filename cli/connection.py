"""How commands reach the workspace: a running server, or the embedded directory through a server of their own.

Either way a command is an HTTP request, so that both run the same functions. In order: `--url` (or ROOKERY_URL), what
`rookery auth` stored, a server that runs on this directory, and else the directory itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import orjson

from cli import output
from cli.state_files import announced, auth_file, server_file
from engine import errors
from engine.errors import (
    DIRECTORY_BUSY,
    NO_DATABASE,
    NO_SERVER,
    NO_TOKEN,
    REMOTE,
    Code,
    Place,
    Problems,
    RookeryError,
)
from engine.settings import Settings, load

NDJSON = "application/x-ndjson"
RETRY_SECONDS = 0.1
"""Seconds between two tries to reach a directory that another process holds."""
NOTICE_AFTER_SECONDS = 2.0
"""Seconds of waiting after which a notice is printed."""
HTTP_TIMEOUT = httpx.Timeout(600.0, connect=5.0)


@dataclass(slots=True)
class Options:
    """Global options of one run of the command line."""

    url: str | None = None
    token: str | None = None
    project: Path = Path()
    data: Path | None = None
    json: bool = False
    settings: Settings | None = None

    def loaded(self) -> Settings:
        """The settings, with the project's directory for a relative data directory."""
        if self.settings is None:
            found = load(url=self.url, token=self.token, data=self.data)
            if not found.data.is_absolute():
                found = found.model_copy(update={"data": (self.project / found.data).resolve()})
            self.settings = found
        return self.settings


options = Options()


@dataclass(slots=True)
class Connection:
    """A client of one server, as one token. A `passing` server is our own, gone when the command ends."""

    http: httpx.Client
    url: str
    token: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    passing: bool = False

    def request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """A request's response. Raises the server's error as it was there."""
        try:
            response = self.http.request(method, path, **kwargs)
        except httpx.HTTPError as exc:
            raise _unreachable(self.url, exc) from exc
        if response.status_code >= 400:
            raise _error(response.status_code, response.content)
        return response

    def json(self, method: str, path: str, **kwargs: Any) -> Any:
        """A request's JSON body."""
        response = self.request(method, path, **kwargs)
        if response.status_code == 204:
            return {}
        try:
            return orjson.loads(response.content)
        except orjson.JSONDecodeError as exc:
            raise RookeryError(
                REMOTE, f"{self.url} did not answer with JSON", hint="is it a rookery server?"
            ) from exc

    def watched(self, path: str, body: Any, progress: Any) -> Any:
        """A POST of long work: progress lines are passed on, the result is returned."""
        headers = {"accept": NDJSON}
        try:
            with self.http.stream("POST", path, json=body, headers=headers) as response:
                if response.status_code >= 400:
                    raise _error(response.status_code, response.read())
                for line in response.iter_lines():
                    found = orjson.loads(line)
                    if "progress" in found:
                        step = found["progress"]
                        progress(step["what"], step["done"], step["total"])
                    elif "failure" in found:
                        raise _rebuilt(found["failure"].pop("status"), found["failure"])
                    else:
                        return found["result"]
        except httpx.HTTPError as exc:
            raise _unreachable(self.url, exc) from exc
        raise RookeryError(REMOTE, "the server ended without a result", hint="run the command again")


def _unreachable(url: str, exc: Exception) -> RookeryError:
    hint = "is `rookery serve` running there?"
    if isinstance(exc, httpx.UnsupportedProtocol):
        rest = url.partition("://")[2] or url
        hint = f"a URL begins with http:// or https://, such as http://{rest}"
    elif isinstance(exc, httpx.LocalProtocolError | httpx.InvalidURL):
        hint = "a URL such as http://127.0.0.1:7181"
    elif "SSL" in str(exc):
        hint = f"it does not speak https: {url.replace('https:', 'http:', 1)}"
    return RookeryError(NO_SERVER, f"no answer from {url}", hint=hint, detail=repr(exc))


def _error(status: int, body: bytes) -> RookeryError:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        found = {"error": body[:200].decode(errors="replace")}
    return _rebuilt(status, found if isinstance(found, dict) else {"error": str(found)})


def _rebuilt(status: int, body: Mapping[str, Any]) -> RookeryError:
    """The server's error, as an error of ours."""
    if len(body.get("errors", [])) > 1:
        return Problems([_rebuilt(status, e) for e in body["errors"]])
    code = errors.codes().get(body.get("code", ""), Code(REMOTE.id, status, REMOTE.title))
    place = Place(part=body["place"]) if body.get("place") else None
    hint = "--token, ROOKERY_TOKEN, or rookery auth" if code.id == NO_TOKEN.id else body.get("hint")
    return RookeryError(code, str(body.get("error", "unknown error")), hint=hint, place=place)


@contextmanager
def connect(*, create: bool = False, keep: bool = True) -> Iterator[Connection]:
    """A connection to the workspace, for the length of a command; with `create`, a workspace is made if need be.

    Without `keep`, it is made elsewhere in an embedded engine and is gone afterwards. Raises RK7007 if there is none.
    """
    settings = options.loaded()
    with ExitStack() as stack:
        try:
            connection = _connected(settings, stack, create=create and keep)
        except RookeryError as exc:
            if not create or keep or exc.code.id != NO_DATABASE.id:
                raise
            output.say(f"{exc.message}: compared with an empty one", "yellow")
            directory = Path(stack.enter_context(TemporaryDirectory(prefix="rookery-")))
            elsewhere = {"data": directory / "data", "clickhouse_url": None}
            connection = _connected(settings.model_copy(update=elsewhere), stack, create=True)
        yield connection


def _connected(settings: Settings, stack: ExitStack, *, create: bool) -> Connection:
    """A connection that ends with the stack. A process that holds the directory is waited for."""
    _warn_of_copy(settings)
    wait = Wait(settings)
    while True:
        remote = _remote(settings)
        if remote is not None:
            return stack.enter_context(_client(*remote))
        running = announced(settings)
        if running is not None and running.starting and wait.goes_on(f"the server (process {running.pid}) to start"):
            continue
        # The engine takes most of a second to import, which commands that talk to a running server need not wait for.
        from cli.embedded_server import local_server

        try:
            url, token = stack.enter_context(local_server(settings, create=create))
        except RookeryError as exc:
            if not is_held(exc) or not wait.goes_on(exc.message):
                raise
            continue
        connection = stack.enter_context(_client(url, token))
        connection.passing = True
        return connection


class Wait:
    """A bounded wait for another process; prints a notice when it takes long."""

    def __init__(self, settings: Settings) -> None:
        self._started = time.monotonic()
        self._longest = settings.wait_seconds
        self._told = False

    def goes_on(self, what: str) -> bool:
        """Wait a moment; False if it has been long enough."""
        waited = time.monotonic() - self._started
        if waited >= self._longest:
            return False
        if waited > NOTICE_AFTER_SECONDS and not self._told:
            self._told = True
            output.say(f"waiting: {what}", "dim")
        time.sleep(RETRY_SECONDS)
        return True


def is_held(exc: RookeryError) -> bool:
    """Whether another process holds the directory, so that it may be free later."""
    return exc.code.id == DIRECTORY_BUSY.id and "Retry-After" in exc.headers


def _warn_of_copy(settings: Settings) -> None:
    running = announced(settings)
    if running is not None and not running.here and running.url and not settings.url:
        file = server_file(settings)
        output.say(
            f"warning: {file} is ignored: it names a server of {running.directory}. "
            f"To talk to that one: --url {running.url}",
            "yellow",
        )


def _remote(settings: Settings) -> tuple[str, str | None] | None:
    token = settings.token.get_secret_value() if settings.token else None
    if settings.url:
        return settings.url, token
    stored = _read(auth_file(settings))
    if stored:
        return str(stored["url"]), token or str(stored["token"])
    running = announced(settings)
    if running is not None and running.here and running.url and answers(running.url):
        given = settings.admin_token.get_secret_value() if settings.admin_token else None
        return running.url, token or given or settings.admin_file.read_text(encoding="utf-8").strip()
    return None


def _read(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "url" in found else None


def answers(url: str) -> bool:
    """Whether a server is there; one that is too busy to answer at once is."""
    try:
        return httpx.get(f"{url}/live", timeout=5.0, trust_env=False).status_code == 200
    except httpx.TimeoutException:
        return True
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return False


@contextmanager
def _client(url: str, token: str | None) -> Iterator[Connection]:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        # Certificates take a while to load; a server in the clear needs none.
        verify = not url.lower().startswith("http://")
        http = httpx.Client(base_url=url, headers=headers, timeout=HTTP_TIMEOUT, trust_env=False, verify=verify)
    except (httpx.InvalidURL, ValueError, TypeError) as exc:
        raise RookeryError(NO_SERVER, f"not a URL: {url}", hint="http://127.0.0.1:7181") from exc
    with http:
        yield Connection(http, url, token)
