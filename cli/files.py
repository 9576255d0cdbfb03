"""Write files into the project."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli import output
from cli.options import options
from engine.errors import RookeryError


@contextmanager
def write_file(proposal: dict[str, dict[str, str]], places: dict[str, Path | None]) -> Iterator[None]:
    """Write the files of a proposal, and restore the old ones if the body of the context fails.

    `places` has the path of each part of the proposal; None for the path that the proposal suggests.
    """
    changed: list[tuple[Path, bytes | None]] = []
    for part, existing in places.items():
        path = existing or options.project / proposal[part]["file"]
        before = path.read_bytes() if path.is_file() else None
        text = proposal[part]["text"].encode()
        if before == text:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
        changed.append((path, before))
    try:
        yield
    except RookeryError:
        for path, before in changed:
            path.unlink() if before is None else path.write_bytes(before)
        raise
    for path, _ in changed:
        output.say(f"wrote {_relative(path)}")


def _relative(path: Path) -> Path:
    """A path relative to the current directory, if it is inside it."""
    absolute, here = path.absolute(), Path.cwd()
    return absolute.relative_to(here) if absolute.is_relative_to(here) else path
