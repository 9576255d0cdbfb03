"""Write files into the project."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli import output
from cli.options import options
from engine.errors import BAD_VALUE, RookeryError, shown
from engine.project.files import EXTENSION


@contextmanager
def write_file(proposal: dict[str, dict[str, str]], places: dict[str, Path | None]) -> Iterator[None]:
    """Write the files of a proposal, and restore the old ones if the body of the context fails.

    `places` has the path of each part of the proposal; None for the path that the proposal suggests.
    """
    changed: list[tuple[Path, bytes | None]] = []
    paths = {part: path or _path_in_project(proposal[part]["file"]) for part, path in places.items()}
    for part, path in paths.items():
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


def _path_in_project(file: str) -> Path:
    """The path of a file that the server proposes. Raises RK1005 if it is outside of the project.

    The path of a deployed file is what its pusher says; the pusher may have fewer rights than the caller.
    """
    root = options.project.resolve()
    path = (root / file).resolve()
    if not path.is_relative_to(root) or path.suffix != EXTENSION:
        raise RookeryError(
            BAD_VALUE,
            f"the deployed file {shown(file)} is not a file of this project",
            hint="push the resource from this project first",
        )
    return options.project / file
