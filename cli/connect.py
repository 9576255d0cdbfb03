"""Connects a command to the workspace. The necessary modules are imported when a command connects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cli.options import options

if TYPE_CHECKING:
    from cli.connection import Connection


@contextmanager
def connect(*, create: bool = False, keep: bool = True) -> Iterator[Connection]:
    """A connection to the workspace while a command runs.

    Raises RK7007 if no workspace exists, unless `create` is set. Without `keep`, the new workspace is in a temporary
    directory.
    """
    from cli.connection import connected

    with connected(options.loaded(), create=create, keep=keep) as connection:
        yield connection
