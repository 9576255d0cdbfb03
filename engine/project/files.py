"""Which files belong to a project, and their text."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.errors import BAD_YAML, NO_FILE, Collector, Place, RookeryError
from engine.project.source import MAX_FILE_BYTES

FOLDERS = ("datasources", "pipes", "endpoints")
EXTENSION = ".yaml"
WRONG_EXTENSIONS = (".yml", ".datasource", ".pipe")
"""Extensions of files that are surely meant for us and would be overlooked."""


@dataclass(frozen=True, slots=True)
class ProjectFile:
    """A file of the project: its path for messages, the resource's name, and its text."""

    file: str
    name: str
    text: str


def find(root: Path, problems: Collector) -> Iterator[ProjectFile]:
    """The files of the project's folders, in order; what cannot be read goes to `problems`."""
    if not root.is_dir():
        problems.add(RookeryError(NO_FILE, "the project's folder does not exist", place=Place(str(root))))
        return
    for folder in FOLDERS:
        if os.path.lexists(root / folder):
            yield from _walk(root, root / folder, problems)


def listed_files(root: Path, files: Iterable[Path], problems: Collector) -> Iterator[ProjectFile]:
    """The given files, each once; what cannot be read goes to `problems`."""
    seen: set[str] = set()
    for file in files:
        path = Path(os.path.normpath(root / file))
        if str(path) in seen:
            continue
        seen.add(str(path))
        if path.suffix == EXTENSION:
            yield from _open(root, path, problems)
        else:
            _refuse(problems, root, path, "a file of a project ends in .yaml", "rename it")


def _walk(root: Path, folder: Path, problems: Collector) -> Iterator[ProjectFile]:
    if folder.is_symlink() or not folder.is_dir():
        _refuse(problems, root, folder, "is not a folder", "links to folders are not followed")
        return
    try:
        entries = sorted(folder.iterdir())
    except OSError as exc:
        _refuse(problems, root, folder, f"cannot be read: {_reason(exc)}")
        return
    for path in entries:
        if path.name.startswith("."):
            continue
        suffix = path.suffix
        if suffix == EXTENSION:
            yield from _open(root, path, problems)
        elif suffix in WRONG_EXTENSIONS or suffix.lower() == EXTENSION:
            _mistaken(problems, root, path)
        elif path.is_dir():
            yield from _walk(root, path, problems)


def _mistaken(problems: Collector, root: Path, path: Path) -> None:
    hint = f"rename it to {path.stem}.yaml"
    if path.suffix in (".datasource", ".pipe"):
        hint = f"write it as YAML in {path.stem}.yaml"
    _refuse(problems, root, path, "a file of a project ends in .yaml", hint)


def _open(root: Path, path: Path, problems: Collector) -> Iterator[ProjectFile]:
    try:
        real = path.resolve(strict=True)
        # Looked at before it is opened: to open a pipe or a device may wait for ever.
        if not stat.S_ISREG(real.stat().st_mode):
            _refuse(problems, root, path, "is not a file", "the extension .yaml is for files")
            return
        if path.is_symlink() and not real.is_relative_to(root.resolve()):
            _refuse(problems, root, path, "is a link that leads out of the project", "copy the file")
            return
        with real.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, RuntimeError) as exc:
        _refuse(problems, root, path, f"cannot be read: {_reason(exc)}")
        return
    if len(content) > MAX_FILE_BYTES:
        _refuse(problems, root, path, "is larger than 1 MiB", "move data out of the file")
        return
    try:
        text = content.decode()
    except UnicodeDecodeError as exc:
        place = _place_of_byte(_shown(root, path), content, exc.start)
        problem = RookeryError(BAD_YAML, "the file is not UTF-8", hint="save it as UTF-8", place=place)
        problem.__cause__ = exc
        problems.add(problem)
        return
    yield ProjectFile(_shown(root, path), path.stem, text)


def _place_of_byte(file: str, content: bytes, position: int) -> Place:
    before = content[:position]
    start = before.rfind(b"\n") + 1
    return Place(file, before.count(b"\n") + 1, len(before[start:].decode(errors="replace")) + 1)


def _reason(exc: Exception) -> str:
    return (exc.strerror or "unknown reason") if isinstance(exc, OSError) else "a loop of links"


def _refuse(problems: Collector, root: Path, path: Path, message: str, hint: str | None = None) -> None:
    shown = _shown(root, path)
    text = message if message.startswith("a file") else f"`{path.name}` {message}"
    problems.add(RookeryError(NO_FILE, text, hint=hint, place=Place(shown)))


def _shown(root: Path, path: Path) -> str:
    base = Path(os.path.normpath(root))
    try:
        shown = path.relative_to(base.absolute() if path.is_absolute() else base).as_posix()
    except ValueError:
        shown = str(path)
    return shown.encode(errors="replace").decode()
