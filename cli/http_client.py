"""Imports the HTTP client (httpx) without its own command line.

httpx imports its own command line if possible, including Click, Rich and Pygments, which take most of its import
time.
"""

from __future__ import annotations

import sys

sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]

import httpx as httpx  # noqa: E402
