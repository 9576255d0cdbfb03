"""The entry point of the `rookery` command. It imports almost nothing, so that Ctrl-C works from the first moment."""

from __future__ import annotations

import atexit
import gc

from cli import interrupts

GARBAGE_THRESHOLD = 100_000
"""Objects that are created before the garbage collector runs: more than a command for a running server creates."""


def main() -> None:
    """Run the command line."""
    interrupts.end_at_once()
    gc.set_threshold(GARBAGE_THRESHOLD)
    # Before it ends, the interpreter would search all objects of the imported modules for garbage.
    atexit.register(gc.freeze)
    from cli.app import run

    run()


if __name__ == "__main__":
    main()
