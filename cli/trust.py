"""Where a command may send its data and token on the word of a file in the project, which others may have written.

A URL that `rookery auth` stored is used only if this user's configuration has a record of it, as with `direnv allow`.
The URL of a running server must name this machine.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import socket
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import typer

from engine.private_files import is_own, private_file

_ADDRESS = re.compile(r"http://(\[[0-9a-f:.]{2,45}\]|[0-9.]{7,15}):[0-9]{1,5}")


def trust(file: Path, content: Mapping[str, Any]) -> None:
    """Record that this user writes a file with this JSON. Raises OSError."""
    private_file(_record(file, content), f"{_location(file)}\n")


def is_trusted(file: Path, content: Mapping[str, Any]) -> bool:
    """Whether `trust` recorded the file with this JSON at this path."""
    try:
        return is_own(_record(file, content))
    except OSError:
        return False


def _record(file: Path, content: Mapping[str, Any]) -> Path:
    """The record's path. Raises OSError if this user has no directory for configuration."""
    directory = Path(typer.get_app_dir("rookery"))
    if not directory.is_absolute():
        # An empty or relative XDG_CONFIG_HOME is as good as none.
        directory = Path("~/.config/rookery").expanduser()
    # Without a home it would be in the current directory, where others may have written it too.
    if not directory.is_absolute():
        raise FileNotFoundError(errno.ENOENT, "the environment has no HOME", str(directory))
    named = os.fsencode(_location(file)) + b"\0" + json.dumps(content, sort_keys=True).encode()
    return directory / "trusted" / hashlib.sha256(named).hexdigest()


def _location(file: Path) -> Path:
    """The path in its project, of which `.rookery` and the file may be links to those of another project."""
    absolute = Path(os.path.normpath(file.absolute()))
    return absolute.parent.parent.resolve() / absolute.parent.name / absolute.name


def is_on_this_machine(url: object) -> bool:
    """Whether a URL names a server of this machine by address. A name could lead elsewhere."""
    found = _ADDRESS.fullmatch(url) if isinstance(url, str) else None
    if found is None:
        return False
    try:
        address = ip_address(found[1].strip("[]"))
        if address.is_loopback or address.is_unspecified:
            return True
        with socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            # Sends nothing. A machine reaches its own addresses from the same address, and others from another.
            probe.connect((str(address), 1))
            return bool(ip_address(probe.getsockname()[0]) == address)
    except (OSError, ValueError):
        return False
