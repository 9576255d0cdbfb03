"""Connects a command to the workspace. The necessary modules are imported when a command connects."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cli.options import options
from engine.errors import UNKNOWN_DATASOURCE, UNKNOWN_PIPE, UNKNOWN_RESOURCE, RookeryError

if TYPE_CHECKING:
    from cli.connection import Connection


_NAME = re.compile(r"(?:unknown|there is no|no) [a-z, ]{1,40}`(\w{1,200})`")
_MISSING = frozenset({UNKNOWN_PIPE.id, UNKNOWN_DATASOURCE.id, UNKNOWN_RESOURCE.id})
"""Error codes for a resource that does not exist."""


@contextmanager
def connect(*, create: bool = False, keep: bool = True) -> Iterator[Connection]:
    """A connection to the workspace while a command runs.

    Raises RK7007 if no workspace exists, unless `create` is set. Without `keep`, the new workspace is in a temporary
    directory.
    """
    from cli.connection import connected

    try:
        with connected(options.loaded(), create=create, keep=keep) as connection:
            options.server = None if connection.temporary else connection.url
            yield connection
    except RookeryError as exc:
        if exc.code.id in _MISSING and (file := _unpushed_file(exc.message)) is not None:
            exc.hint = f"{file} is not pushed yet: rookery push"
        raise


def _unpushed_file(message: str) -> Path | None:
    """The project's file of the resource that the server's message names; None if it has no file."""
    # Other messages with these codes name a resource that is deployed, and is of another kind.
    if (name := _NAME.match(message)) is None:
        return None
    # Search only the first level of each folder: a project directory may contain much more than the project.
    files = (options.project / folder / f"{name[1]}.yaml" for folder in ("datasources", "pipes", "endpoints"))
    return next((file for file in files if file.is_file()), None)
