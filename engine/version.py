"""The version of the installed program."""

from __future__ import annotations

from importlib import metadata

DISTRIBUTION = "rookery-analytics"
"""Name on PyPI, where `rookery` is a different project. The command is `rookery`."""


def version() -> str:
    """The installed version, or `unknown` if the package is not installed."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"
