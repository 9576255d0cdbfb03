"""Finds files that are probably meant to be part of a project, but are not read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from engine.errors import OVERLOOKED, Place, RookeryError
from engine.plurals import counted
from engine.project.files import EXTENSION, FOLDERS, WRONG_EXTENSIONS
from engine.project.source import MAX_FILE_BYTES

MAX_REPORTED = 20
"""Maximum number of files that are reported one by one."""
_YAML = (EXTENSION, ".yml")
_NOTES = (".md", ".txt", ".rst", ".adoc", ".html", ".pdf", ".png", ".svg", "")
"""Extensions of notes that people keep beside project files."""
_RESOURCE_KEY = re.compile(rb"^(?:columns|nodes|sql|materialize|engine)[ \t]*:", re.MULTILINE)
"""Matches a key of a datasource or pipe. Other programs keep their YAML files at the top level, too."""


def overlooked(root: Path) -> list[RookeryError]:
    """Return a warning for each file or folder that is not read: misspelled folders, YAML outside the folders, and
    other files in them.
    """
    found = [*_beside_folders(root), *(w for f in FOLDERS for w in _in_folder(root, root / f))]
    if len(found) <= MAX_REPORTED:
        return found
    count = len(found) - MAX_REPORTED
    more = RookeryError(
        OVERLOOKED, f"not read either: {counted(count, 'more file')}", hint="move them out of the project's folders"
    )
    return [*found[:MAX_REPORTED], more]


def misspelled(root: Path) -> Iterator[tuple[str, str]]:
    """Yield the folders with YAML files whose names nearly are those of the project's folders, and these names."""
    for path in _entries(root):
        if path.name in FOLDERS or path.name.startswith(".") or not path.is_dir() or path.is_symlink():
            continue
        near = difflib.get_close_matches(path.name.lower(), FOLDERS, n=1, cutoff=0.75)
        if near and any(e.suffix.lower() in _YAML for e in islice(path.rglob("*"), 1000)):
            yield path.name, near[0]


def _beside_folders(root: Path) -> Iterator[RookeryError]:
    for name, near in misspelled(root):
        yield _warning(f"{name}/", f"folder `{name}` is not read", f"did you mean `{near}`?")
    for path in _entries(root):
        if path.suffix.lower() in _YAML and not path.name.startswith(".") and _is_resource(path):
            hint = f"move it to {', '.join(f'{f}/' for f in FOLDERS[:-1])} or {FOLDERS[-1]}/"
            yield _warning(
                path.name, f"`{path.name}` is not read, because it is in none of the project's folders", hint
            )


def _in_folder(root: Path, folder: Path) -> Iterator[RookeryError]:
    """Yield a warning for each file in a folder and its subfolders that is neither a project file nor a note."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for path in _entries(folder):
        suffix = path.suffix.lower()
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _in_folder(root, path)
        elif suffix not in (EXTENSION, *WRONG_EXTENSIONS, *_NOTES):
            yield _warning(
                path.relative_to(root).as_posix(),
                f"`{path.name}` is not read, because it does not end in .yaml",
                _hint(path),
            )


def _hint(path: Path) -> str:
    if path.suffix.lower() == ".sql":
        return f"write the query under `sql:` in {path.stem}.yaml"
    if any(extension in path.name.lower() for extension in _YAML):
        return f"remove it, or rename it to {path.name.lower().partition('.y')[0]}.yaml"
    return "move it out of the folder"


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        # The folders of the project are reported as unreadable when their files are read.
        return []


def _is_resource(path: Path) -> bool:
    try:
        # Opening a named pipe could block.
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            return _RESOURCE_KEY.search(stream.read(MAX_FILE_BYTES)) is not None
    except OSError:
        return False


def _warning(file: str, message: str, hint: str) -> RookeryError:
    shown = file.encode(errors="replace").decode()
    return RookeryError(OVERLOOKED, message.encode(errors="replace").decode(), hint=hint, place=Place(shown))
