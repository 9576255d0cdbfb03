"""Finds the files of a project and reads them."""

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
"""Extensions of files that look like project files. They are reported, because they would otherwise be ignored."""


@dataclass(frozen=True, slots=True)
class ProjectFile:
    """A file of the project."""

    file: str
    """The path as shown in messages, relative to the project's folder where possible."""
    name: str
    """The name of the resource: the file's name without its extension."""
    text: str


def project_files(root: Path, problems: Collector) -> Iterator[ProjectFile]:
    """Yield the files in the project's folders, sorted by path. Files that cannot be read are added to `problems`."""
    if not root.is_dir():
        problems.add(RookeryError(NO_FILE, "the project's folder does not exist", place=Place(str(root))))
        return
    for folder in FOLDERS:
        if os.path.lexists(root / folder):
            yield from _walk(root, root / folder, problems)


def listed_files(root: Path, files: Iterable[Path], problems: Collector) -> Iterator[ProjectFile]:
    """Yield the listed files, each once. Files that cannot be read are added to `problems`."""
    seen: set[str] = set()
    for file in files:
        path = Path(os.path.normpath(root / file))
        if str(path) in seen:
            continue
        seen.add(str(path))
        if path.suffix == EXTENSION:
            yield from _open(root, path, problems)
        elif path.is_dir():
            _refuse(problems, root, path, "is a directory", "name its files")
        else:
            _refuse(problems, root, path, "does not end in .yaml, as project files must", "rename it")


def _walk(root: Path, folder: Path, problems: Collector) -> Iterator[ProjectFile]:
    """Yield the files of a folder and its subfolders."""
    if folder.is_symlink() or not folder.is_dir():
        _refuse(problems, root, folder, "is not a folder", "links to folders are not followed")
        return
    try:
        # Sorted, so that problems and duplicate names are the same on every file system.
        entries = sorted(folder.iterdir())
    except OSError as exc:
        _refuse(problems, root, folder, f"cannot be read: {_reason(exc)}")
        return
    for path in entries:
        # Editors and version control keep files of their own here.
        if path.name.startswith("."):
            continue
        suffix = path.suffix
        if suffix == EXTENSION:
            yield from _open(root, path, problems)
        elif suffix in WRONG_EXTENSIONS or suffix.lower() == EXTENSION:
            _refuse_extension(problems, root, path)
        elif path.is_dir():
            yield from _walk(root, path, problems)


def _refuse_extension(problems: Collector, root: Path, path: Path) -> None:
    hint = f"rename it to {path.stem}.yaml"
    if path.suffix in (".datasource", ".pipe"):
        hint = f"rewrite it as YAML in {path.stem}.yaml"
    _refuse(problems, root, path, "does not end in .yaml, as project files must", hint)


def _open(root: Path, path: Path, problems: Collector) -> Iterator[ProjectFile]:
    """Yield one file, unless it cannot be read, is too large, or is not text."""
    try:
        real = path.resolve(strict=True)
        # Check the type before opening: opening a named pipe or a device may block forever.
        if not stat.S_ISREG(real.stat().st_mode):
            _refuse(problems, root, path, "is not a regular file", "only files can have the extension .yaml")
            return
        # Files are sent to the server. A link in a project must not send a file from elsewhere on this machine.
        if path.is_symlink() and not real.is_relative_to(root.resolve()):
            _refuse(problems, root, path, "is a link to a file outside the project", "copy the file into the project")
            return
        with real.open("rb") as stream:
            # One byte more than allowed shows that a file is too large without reading all of it.
            content = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, RuntimeError) as exc:
        _refuse(problems, root, path, f"cannot be read: {_reason(exc)}")
        return
    if len(content) > MAX_FILE_BYTES:
        _refuse(problems, root, path, "is larger than 1 MiB", "project files are not meant to hold data")
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
    """The line and column of a byte."""
    before = content[:position]
    start = before.rfind(b"\n") + 1
    return Place(file, before.count(b"\n") + 1, len(before[start:].decode(errors="replace")) + 1)


def _reason(exc: Exception) -> str:
    """Why a file cannot be read, without the path, which the message has already."""
    return (exc.strerror or "unknown reason") if isinstance(exc, OSError) else "its links form a loop"


def _refuse(problems: Collector, root: Path, path: Path, message: str, hint: str | None = None) -> None:
    """Add a problem of a file."""
    problems.add(RookeryError(NO_FILE, f"`{path.name}` {message}", hint=hint, place=Place(_shown(root, path))))


def _shown(root: Path, path: Path) -> str:
    """The path relative to the project's folder, or as it is if it lies outside."""
    base = Path(os.path.normpath(root))
    try:
        shown = path.relative_to(base.absolute() if path.is_absolute() else base).as_posix()
    except ValueError:
        shown = str(path)
    return shown.encode(errors="replace").decode()
