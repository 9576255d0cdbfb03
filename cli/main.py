"""The entry point of the `rookery` command. It imports almost nothing, so that Ctrl-C works from the first moment."""

from __future__ import annotations

from cli import interrupts


def main() -> None:
    """Run the command line."""
    interrupts.end_at_once()
    from cli.app import run

    run()


if __name__ == "__main__":
    main()
