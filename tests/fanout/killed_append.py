"""A process that opens a workspace, appends one batch, and is killed (SIGKILL) at a chosen moment of it.

Run as `python -m tests.fanout.killed_append DIRECTORY DATASOURCE KEY BODY MOMENT`. It exits with 0 if the moment did not come.
A moment is `before CLASS.METHOD` or `after CLASS.METHOD`, or the number of a rename that puts a part into place.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.control.recovery import finish
from engine.errors import RookeryError
from engine.warehouse.port import Input
from tests.support.in_process import open_rookery

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name("killing_renames.c")
CLASSES = {
    "EmbeddedWarehouse": "engine.warehouse.embedded",
    "KeptBatch": "engine.fanout.kept_rows",
    "Receipts": "engine.ingest.idempotency.receipts",
}


def append_and_die(
    directory: Path, datasource: str, key: str, body: str, moment: str, environment: Mapping[str, str] | None = None
) -> bool:
    """Append in a process that is killed at a moment. Returns whether the moment came."""
    command = [sys.executable, "-m", "tests.fanout.killed_append", str(directory), datasource, key, body, moment]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("ROOKERY_")}
    done = subprocess.run(command, cwd=ROOT, env={**inherited, **(environment or {})}, timeout=120)
    assert done.returncode in (0, -signal.SIGKILL), done.returncode
    return done.returncode != 0


def killing_renames(directory: Path) -> dict[str, str]:
    """The environment of a process that can be killed at a rename."""
    library = directory / "killing_renames.so"
    if not library.exists():
        command = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library), str(SOURCE), "-ldl"]
        subprocess.run(command, check=True)
    return {"LD_PRELOAD": str(library)}


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _arm(moment: str, data: Path) -> None:
    if (control := os.environ.get("FAILING_WRITES")) is not None:
        with Path(control).open("r+b") as file:
            file.write(b"\x01")
    if moment.isdigit():
        ctypes.CDLL(None).kill_at_rename(str(data / "store").encode(), int(moment))
        return
    when, _, method = moment.partition(" ")
    owner, _, name = method.partition(".")
    cls = getattr(importlib.import_module(CLASSES[owner]), owner)
    real = getattr(cls, name)

    def dying(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            _die()
        result = real(*args, **kwargs)
        _die()
        return result

    setattr(cls, name, dying)


def main(directory: str, datasource: str, key: str, body: str, moment: str) -> None:
    with open_rookery(Path(directory)) as rookery:
        finish(rookery.workspace)
        _arm(moment, Path(directory) / "data")
        try:
            rookery.gateway.append(datasource, body.encode(), Input.NDJSON, key=key or None).result(60)
        except RookeryError as exc:
            print(exc, exc.detail, file=sys.stderr)
        os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
