"""Processes that open a workspace, append one batch, and are killed (SIGKILL) at a chosen moment of it.

    with Killing() as killing:
        assert killing.append(directory, "events", "a key", body, "before Receipts.write")

A moment is `before CLASS.METHOD` or `after CLASS.METHOD`, or the number of a rename that puts a part into place. One
process, `python -m tests.fanout.killed_append`, imports the program and forks for each append.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.forking import ROOT, load_engine_later

SOURCE = Path(__file__).with_name("killing_renames.c")
CLASSES = {
    "EmbeddedWarehouse": "engine.warehouse.embedded",
    "KeptBatch": "engine.fanout.kept_rows",
    "Receipts": "engine.ingest.idempotency.receipts",
}
PATIENCE = 120
"""Seconds after which an append that hangs ends."""


class Killing:
    """The forking process, with further variables of its environment."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("ROOKERY_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fanout.killed_append"],
            cwd=ROOT,
            env={**inherited, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Killing:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def append(self, directory: Path, datasource: str, key: str, body: str, moment: str) -> bool:
        """Append in a process that is killed at a moment. Returns whether the moment came."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(directory), datasource, key, body, moment]) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        assert code in (0, -signal.SIGKILL), code
        return code != 0


def killing_renames(directory: Path) -> dict[str, str]:
    """The environment of a process that can be killed at a rename."""
    library = directory / "killing_renames.so"
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


def _append(directory: str, datasource: str, key: str, body: str, moment: str) -> None:
    from engine.control.recovery import finish
    from engine.errors import RookeryError
    from engine.warehouse.port import Input
    from tests.support.in_process import open_rookery

    with open_rookery(Path(directory)) as rookery:
        finish(rookery.workspace)
        _arm(moment, Path(directory) / "data")
        try:
            rookery.gateway.append(datasource, body.encode(), Input.NDJSON, key=key or None).result(60)
        except RookeryError as exc:
            print(exc, exc.detail, file=sys.stderr)
        os._exit(0)


def _forked(*arguments: str) -> int:
    """The exit code of a fork that appends."""
    child = os.fork()
    if child == 0:
        # The codes are written to standard output, and the program's log would be.
        os.dup2(2, 1)
        signal.alarm(PATIENCE)
        try:
            _append(*arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    load_engine_later()
    for name in ("engine.web.app", "engine.control.recovery", "tests.support.in_process"):
        importlib.import_module(name)
    for line in sys.stdin:
        print(_forked(*json.loads(line)), flush=True)


if __name__ == "__main__":
    main()
