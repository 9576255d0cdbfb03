"""The entry point of the `rookery` command. It imports almost nothing, so that Ctrl-C works from the first moment."""

from __future__ import annotations

import atexit
import gc
import os
import sys

from cli import interrupts

GARBAGE_THRESHOLD = 100_000
"""Objects that are created before the garbage collector runs: more than a command for a running server creates."""


def main() -> None:
    """Run the command line."""
    interrupts.end_at_once()
    _open_closed_streams()
    gc.set_threshold(GARBAGE_THRESHOLD)
    # Before it ends, the interpreter would search all objects of the imported modules for garbage.
    atexit.register(gc.freeze)
    from cli.app import run

    run()


def _open_closed_streams() -> None:
    """Open the standard streams that the caller has closed (`>&-`).

    Otherwise the next files, such as those of the database, would get their numbers, and with them what is printed.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            # The lowest free number, which is that of the stream.
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8"))


if __name__ == "__main__":
    main()
