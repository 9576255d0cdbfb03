"""Names for completion in the shell: from the running server, otherwise from the project's files, otherwise none.

A completion must be fast and silent: it imports only the standard library, waits for the server briefly, never starts
one, and ignores every error.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import typer

WAIT_SECONDS = 1.0
"""Longest time that a completion takes."""
ANSWER_SECONDS = 0.5
"""Longest time that it waits for the server. After that, there is time to read the files."""
MAXIMUM_NAMES, MAXIMUM_FILES, MAXIMUM_BYTES = 500, 5_000, 4 << 20
FOLDERS = {"datasources": ("datasources",), "pipes": ("pipes", "endpoints")}
"""Folders with the files of a kind."""
# Shells insert names unquoted into the command line. Names come from outside, so those with other characters, which a
# shell could interpret, are not offered.
_SAFE = re.compile(r"[\w.@%+=,/][\w.@%+=,/-]{0,200}")
Completer = Callable[[typer.Context, str], list[str]]
Names = Callable[[typer.Context], list[str]]


def _completer(names: Names) -> Completer:
    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        found: list[str] = []

        def search() -> None:
            # An error here would be printed into the user's command line.
            with suppress(Exception):
                found.extend(names(ctx))

        # A socket's timeout applies to each of its operations, not to all of them together.
        thread = threading.Thread(target=search, daemon=True)
        thread.start()
        thread.join(WAIT_SECONDS)
        fitting = {n for n in list(found) if n.startswith(incomplete) and _SAFE.fullmatch(n)}
        return sorted(fitting)[:MAXIMUM_NAMES]

    return complete


def _resources(ctx: typer.Context, kind: str, accept: Callable[[Mapping[str, Any]], bool]) -> list[str]:
    """Names of the deployed resources of a kind, or of the project's files if no server can be asked."""
    deployed = _ask(ctx, kind)
    if deployed is not None:
        return [str(r["name"]) for r in deployed if accept(r)]
    return [path.stem for path in _files(ctx, kind) if accept(_described(path))]


def _is_any(_resource: Mapping[str, Any]) -> bool:
    return True


def _is_endpoint(pipe: Mapping[str, Any]) -> bool:
    return bool(pipe.get("type", "endpoint") == "endpoint")


def _is_unknown(tenant: Mapping[str, Any]) -> bool:
    return bool(tenant.get("state") == "unknown")


def _described(path: Path) -> dict[str, str]:
    """What is known about a resource from its file, without parsing it."""
    is_materialized = any(line.startswith("materialize:") for line in path.read_text("utf-8").splitlines())
    return {"type": "materialized" if is_materialized else "endpoint"}


def _tenants(ctx: typer.Context, accept: Callable[[Mapping[str, Any]], bool]) -> list[str]:
    return [str(t["id"]) for t in _ask(ctx, "tenants") or [] if accept(t)]


datasources = _completer(lambda ctx: _resources(ctx, "datasources", _is_any))
pipes = _completer(lambda ctx: _resources(ctx, "pipes", _is_any))
endpoints = _completer(lambda ctx: _resources(ctx, "pipes", _is_endpoint))
resources = _completer(lambda ctx: [n for kind in FOLDERS for n in _resources(ctx, kind, _is_any)])
resources_of_group = _completer(lambda ctx: _resources(ctx, f"{_group(ctx)}s", _is_any))
tenants = _completer(lambda ctx: _tenants(ctx, lambda t: not _is_unknown(t)))
new_tenants = _completer(lambda ctx: _tenants(ctx, _is_unknown))
tokens = _completer(lambda ctx: [str(t["name"]) for t in _ask(ctx, "tokens") or []])
files = _completer(lambda ctx: [path.stem for kind in FOLDERS for path in _files(ctx, kind)])


def _group(ctx: typer.Context) -> str:
    """The group of the command: `pipe` or `datasource`."""
    return (ctx.parent.info_name if ctx.parent else None) or "pipe"


def _files(ctx: typer.Context, kind: str) -> Iterator[Path]:
    """The project's files of a kind."""
    root = ctx.find_root().params.get("directory") or Path()
    count = 0
    for folder in FOLDERS[kind]:
        for path in (Path(root) / folder).rglob("*.yaml"):
            count += 1
            if count > MAXIMUM_FILES:
                return
            if path.is_file():
                yield path


def _ask(ctx: typer.Context, kind: str) -> list[dict[str, Any]] | None:
    """The running server's list of a kind; None if no server runs or it does not answer."""
    from http.client import HTTPConnection, HTTPException, HTTPSConnection

    try:
        access = _access(ctx)
        if access is None:
            return None
        url = urlsplit(access[0])
        connection_type = HTTPSConnection if url.scheme == "https" else HTTPConnection
        connection = connection_type(url.hostname or "", url.port, timeout=ANSWER_SECONDS)
        headers = {"authorization": f"Bearer {access[1]}"} if access[1] else {}
        connection.request("GET", f"{url.path.rstrip('/')}/v0/{kind}", headers=headers)
        response = connection.getresponse()
        body = response.read(MAXIMUM_BYTES)
        return list(json.loads(body)[kind]) if response.status == 200 else None
    except (OSError, HTTPException, ValueError, KeyError, TypeError):
        return None


def _access(ctx: typer.Context) -> tuple[str, str | None] | None:
    """URL and token of the server, as `cli.connection` finds them; None if there is none.

    The settings are not loaded, because that would double the time of a completion.
    """
    given = ctx.find_root().params
    if given.get("url"):
        return str(given["url"]), given.get("token")
    from cli.trust import is_on_this_machine, is_trusted
    from engine.private_files import is_own, read_small

    data = Path(given.get("store") or Path(".rookery") / "data")
    state = (Path(given.get("directory") or Path()) / data).parent
    stored = _read(state / "auth.json")
    if stored is not None:
        if not is_trusted(state / "auth.json", stored):
            return None
        return str(stored["url"]), given.get("token") or str(stored["token"])
    running = _read(state / "server.json")
    status = state.stat()
    # The file of a copied directory names the server of the original, and that of another user any URL.
    if running is None or running.get("identity") != [status.st_dev, status.st_ino]:
        return None
    if not is_own(state / "server.json") or not is_on_this_machine(running["url"]):
        return None
    return str(running["url"]), given.get("token") or read_small(state / "admin_token").strip()


def _read(file: Path) -> dict[str, Any] | None:
    from engine.private_files import read_json

    content = read_json(file)
    return content if content is not None and content.get("url") else None
