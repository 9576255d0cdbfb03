"""A real server for tests: `rookery serve` as a process of its own (see `forking.py`), on a free loopback port.

with running(tmp_path) as server:
    server.push(Path("/a/project"))
    server.tenant("1", "tables")
    server.events("events", [{"tenant_id": 1}])
    token = server.mint("PIPES:READ:usage", tenant="1")
    assert server.get("/v0/pipes/usage.json", token).status_code == 200
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx

from tests.support.forking import Forked

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60
STOP_SECONDS = 30


@dataclass
class Server:
    """A running server. `http` is a client without a token; the methods act as admin unless told otherwise."""

    url: str
    admin_token: str
    process: Forked | subprocess.Popen[bytes]
    directory: Path
    log_file: Path
    http: httpx.Client = field(repr=False)

    def request(self, method: str, path: str, token: str | None = None, **kwargs: Any) -> httpx.Response:
        """Any request; with `token`, in the Authorization header."""
        headers = dict(kwargs.pop("headers", None) or {})
        if token is not None:
            headers.setdefault("authorization", f"Bearer {token}")
        return self.http.request(method, path, headers=headers, **kwargs)

    def get(self, path: str, token: str | None = None, **kwargs: Any) -> httpx.Response:
        return self.request("GET", path, token, **kwargs)

    def post(self, path: str, token: str | None = None, **kwargs: Any) -> httpx.Response:
        return self.request("POST", path, token, **kwargs)

    def admin(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        return self.request(method, path, self.admin_token, **kwargs)

    def admin_json(self, method: str, path: str, **kwargs: Any) -> Any:
        """An admin's request that must succeed; its JSON."""
        response = self.admin(method, path, **kwargs)
        assert response.status_code < 300, f"{method} {path}: {response.status_code} {response.text}"
        return response.json() if response.content else {}

    def push(self, project: Path | Mapping[str, str], **options: Any) -> Any:
        """Push a project directory, or files given as `{"datasources/events.yaml": text}`; options as `/v0/push`."""
        return self.admin_json("POST", "/v0/push", json={"files": sources(project), **options})

    def tenant(self, tenant: str, placement: str = "pooled") -> Any:
        return self.admin_json("POST", "/v0/tenants", json={"id": tenant, "placement": placement})

    def events(self, datasource: str, rows: Iterable[Mapping[str, Any]]) -> Any:
        """Append rows and wait until they are stored."""
        body = "\n".join(json.dumps(r) for r in rows)
        return self.admin_json("POST", "/v0/events", params={"name": datasource, "wait": "true"}, content=body)

    def mint(self, *scopes: str | Mapping[str, Any], tenant: str | None = None, **more: Any) -> str:
        """A JWT of one hour."""
        body: dict[str, Any] = {"name": "a test", "ttl": 3600, "scopes": list(scopes), **more}
        if tenant is not None:
            body["tenant"] = tenant
        return str(self.admin_json("POST", "/v0/tokens", json=body)["token"])

    def static(self, name: str, *scopes: str | Mapping[str, Any], tenant: str | None = None) -> str:
        """A static token."""
        body: dict[str, Any] = {"name": name, "scopes": list(scopes)}
        if tenant is not None:
            body["tenant"] = tenant
        return str(self.admin_json("POST", "/v0/tokens", json=body)["token"])

    def sql(self, text: str, token: str | None = None, **params: Any) -> list[dict[str, Any]]:
        """Rows of ad-hoc SQL, as admin unless a token is given."""
        response = self.post("/v0/sql", token or self.admin_token, content=text, params=params)
        assert response.status_code == 200, response.text
        rows: list[dict[str, Any]] = response.json()["data"]
        return rows

    def log(self) -> str:
        """Everything that the server has written so far, to standard output and standard error."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> int:
        """Ask it to end (SIGTERM) and wait; its exit code. Harmless when repeated."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the server did not stop: {self.log()[-2000:]}") from None


def sources(project: Path | Mapping[str, str]) -> list[dict[str, str]]:
    """The files of a project as `/v0/push` takes them."""
    if not isinstance(project, Path):
        texts = dict(project)
    else:
        files = (
            f for part in ("datasources", "pipes", "endpoints") for f in sorted((project / part).rglob("*.yaml"))
        )
        texts = {str(f.relative_to(project)): f.read_text(encoding="utf-8") for f in files}
    return [{"name": Path(f).stem, "file": f, "text": text} for f, text in texts.items()]


@contextmanager
def running(directory: Path, **environment: Any) -> Iterator[Server]:
    """A server over `directory` (its engine's data in `directory/.rookery`), stopped at the end.

    Further settings are the server's environment: `running(path, ROOKERY_READERS=2)`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    log_file = directory / "server.log"
    announced = directory / ".rookery" / "server.json"
    announced.unlink(missing_ok=True)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("ROOKERY_")}
    given = {k: str(v) for k, v in environment.items()}
    with log_file.open("ab") as log:
        process = _started(
            directory, {**inherited, "PYTHONPATH": str(ROOT), **given}, log, forks=_only_settings(given)
        )
    try:
        url = _url(process, announced, log_file)
        token = given.get("ROOKERY_ADMIN_TOKEN") or (directory / ".rookery" / "admin_token").read_text().strip()
        # Without certificates, which take a client 20 ms to load.
        with httpx.Client(base_url=url, timeout=60, trust_env=False, verify=False) as http:
            server = Server(url, token, process, directory, log_file, http)
            yield server
            server.stop()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@contextmanager
def running_copy(prepared: Path, directory: Path, **environment: Any) -> Iterator[Server]:
    """A server over a copy of another server's data, which takes less than half as long as filling a new one."""
    shutil.copytree(prepared / ".rookery", directory / ".rookery", symlinks=True)
    with running(directory, **environment) as server:
        yield server


def _started(
    directory: Path, environment: dict[str, str], log: IO[bytes], *, forks: bool
) -> Forked | subprocess.Popen[bytes]:
    arguments = ["serve", "--port", "0"]
    with Path(os.devnull).open("rb") as nothing:
        if forks:
            return Forked(arguments, directory, environment, (nothing.fileno(), log.fileno(), log.fileno()))
        command = [sys.executable, "-m", "cli.main", *arguments]
        return subprocess.Popen(command, cwd=directory, env=environment, stdin=nothing, stdout=log, stderr=log)


def _only_settings(environment: Mapping[str, str]) -> bool:
    """Whether a fork can take them up: the loader and the interpreter read theirs when they start."""
    return all(name.startswith("ROOKERY_") or name == "TZ" for name in environment)


def _url(process: Forked | subprocess.Popen[bytes], announced: Path, log_file: Path) -> str:
    """Where the server listens, once it answers."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"the server ended with {process.returncode}: {log_file.read_text()[-4000:]}")
        try:
            url = str(json.loads(announced.read_text())["url"])
            if httpx.get(f"{url}/ready", timeout=5, trust_env=False, verify=False).status_code == 200:
                return url
        except (OSError, ValueError, KeyError, httpx.HTTPError):
            pass
        time.sleep(0.02)
    raise AssertionError(f"the server did not start: {log_file.read_text()[-4000:]}")
