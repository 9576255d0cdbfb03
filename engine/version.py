"""The version of the installed program."""

from __future__ import annotations

from importlib import metadata

DISTRIBUTION = "rookery-analytics"
"""Name on the package index. The plain name belongs to another project; the command is `rookery`."""


def version() -> str:
    """The installed version, or `unknown` for a checkout that was never installed."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"
