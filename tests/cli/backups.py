"""A workspace whose backups are tested, and what a command has left in a directory."""

from __future__ import annotations

from pathlib import Path

from tests.cli.billing import FILES
from tests.support.server import Server


def fill(server: Server) -> None:
    server.push(FILES)
    for tenant, placement in ((1, "tables"), (2, "tables"), (8, "pooled")):
        server.tenant(str(tenant), placement)
    server.events("events", [{"tenant_id": t, "event": "a", "units": n} for n in range(20) for t in (1, 2, 8)])


def left(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir())
