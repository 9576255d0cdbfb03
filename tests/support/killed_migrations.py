"""Migrations that are killed (SIGKILL) at one of their writes after the other, until one run completes.

As a program: `python -m tests.support.killed_migrations DIRECTORY` prints how many runs were killed. A run is killed
just before its n-th write, so that this write is the first one that is missing, over what earlier runs left. In
`make soak` that is every write; otherwise it is every third one from the second on, of which the later ones replace one
view after the other.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.soak import soaking

MOST = 200


def killed_at(directory: Path, write: int) -> bool:
    """Open the workspace in a process of its own that is killed at that write; whether it was."""
    child = os.fork()
    if child == 0:
        try:
            _open(directory, write)
        except BaseException as exc:
            sys.stderr.write(f"{exc!r}\n")
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    assert os.waitstatus_to_exitcode(status) == 0, "the opening failed"
    return False


def _open(directory: Path, write: int) -> None:
    from engine.control import recovery
    from engine.fanout.router import router_of
    from engine.settings import load
    from engine.warehouse.embedded import EmbeddedWarehouse
    from engine.workspace import workspace as state
    from engine.workspace.opening import open_workspace

    inside = False
    left = write

    def counted(name: str) -> None:
        whole: Callable[..., Any] = getattr(EmbeddedWarehouse, name)

        def call(self: EmbeddedWarehouse, *args: Any, **kwargs: Any) -> Any:
            nonlocal left
            if inside:
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
            return whole(self, *args, **kwargs)

        setattr(EmbeddedWarehouse, name, call)

    def watched(module: Any, name: str) -> None:
        whole: Callable[..., Any] = getattr(module, name)

        def call(*args: Any) -> Any:
            nonlocal inside
            inside = True
            try:
                return whole(*args)
            finally:
                inside = False

        setattr(module, name, call)

    counted("execute")
    counted("insert")
    watched(state, "migrate")
    watched(recovery, "migrate")
    workspace = open_workspace(load(data=directory / ".rookery" / "data"))
    router_of(workspace)
    recovery.finish(workspace)
    workspace.close()


def main() -> None:
    import engine.web.app  # noqa: F401 — imported once, before the forks

    killed, write, step = (0, 1, 1) if soaking() else (0, 2, 3)
    while killed_at(Path(sys.argv[1]), write):
        killed += 1
        write += step
        assert killed < MOST, "no run completes"
    sys.stdout.write(f"{killed}\n")


if __name__ == "__main__":
    main()
