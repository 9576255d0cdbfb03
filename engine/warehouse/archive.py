"""Backup files: a tar of a data directory, with a description at the beginning and checksums at the end.

`backup.json` comes first, then the files under `data/`, and finally `SHA256SUMS` with one line for every file, as
`sha256sum -c` reads it. A file without `SHA256SUMS` is incomplete.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import tarfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from posixpath import dirname, join, normpath
from typing import IO, Any, Self

import orjson

from engine import errors
from engine.errors import RookeryError
from engine.warehouse.layout_version import LAYOUT_VERSION, newer_layout_error
from engine.warehouse.unfinished import RESTORE, unfinished_directory

FORMAT = 1
"""The version of the format of backup files."""
DESCRIPTION, SUMS, DATA = "backup.json", "SHA256SUMS", "data"
CHUNK_BYTES = 1 << 20
MAX_NAME = 1_000
MAX_DESCRIPTION_BYTES = 32 << 20
MAX_EXTENSION_BYTES = 64 << 10
"""Longest extension of a member's header, such as its long name. tarfile reads extensions into memory."""
_KEYS = frozenset(
    {"format", "rookery", "engine", "layout", "timezone", "workspace", "created_at", "paused_seconds"}
    | {"positions", "tables", "files", "links"}
)
"""What a description contains. Commands add other keys to it in their output."""
_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_END = b"\0" * (2 * tarfile.BLOCKSIZE)
_UNREADABLE = (
    tarfile.TarError,
    EOFError,
    ValueError,
    LookupError,
    OverflowError,
    RecursionError,
    FileExistsError,
    NotADirectoryError,
)
"""What reading a damaged file raises. The last two are names that contradict each other."""
_SUM = re.compile(r"([0-9a-f]{64})  (\S.*)")
_LINK_TARGET = re.compile(r"(?:\.\./)+store/[0-9a-f]{3}/[0-9a-f-]{36}/?")
"""Where the engine's symbolic links point to: the directory of a database or a table."""


def pack(directory: Path, description: Mapping[str, Any]) -> Iterator[bytes]:
    """The bytes of a backup of a directory, whose files must not change, in large chunks. Raises OSError."""
    pending = bytearray()
    for chunk in _members(directory, description):
        pending += chunk
        if len(pending) >= CHUNK_BYTES:
            yield bytes(pending)
            pending.clear()
    if pending:
        yield bytes(pending)


def _members(directory: Path, description: Mapping[str, Any]) -> Iterator[bytes]:
    entries = sorted(directory.rglob("*"))
    links = sum(e.is_symlink() for e in entries)
    files = sum(e.is_file() and not e.is_symlink() for e in entries)
    body = json.dumps({"format": FORMAT, **description, "files": files, "links": links}, indent=1).encode()
    sums = [f"{hashlib.sha256(body).hexdigest()}  {DESCRIPTION}\n"]
    yield from _text_member(DESCRIPTION, body)
    for entry in entries:
        name = f"{DATA}/{entry.relative_to(directory).as_posix()}"
        if entry.is_symlink():
            header = _header(name, tarfile.SYMTYPE, 0o777)
            header.linkname = str(entry.readlink())
            yield header.tobuf(tarfile.PAX_FORMAT)
        elif entry.is_dir():
            yield _header(name, tarfile.DIRTYPE, 0o700).tobuf(tarfile.PAX_FORMAT)
        else:
            digest = hashlib.sha256()
            yield from _file_member(name, entry, digest)
            sums.append(f"{digest.hexdigest()}  {name}\n")
    yield from _text_member(SUMS, "".join(sums).encode())
    yield _END


def _file_member(name: str, file: Path, digest: Any) -> Iterator[bytes]:
    with file.open("rb") as source:
        header = _header(name, tarfile.REGTYPE, 0o600)
        header.size = os.fstat(source.fileno()).st_size
        yield header.tobuf(tarfile.PAX_FORMAT)
        left = header.size
        while left:
            chunk = source.read(min(left, CHUNK_BYTES))
            if not chunk:
                raise OSError(f"{file} became shorter while it was read")
            left -= len(chunk)
            digest.update(chunk)
            yield chunk
    yield _padding(header.size)


def _text_member(name: str, body: bytes) -> Iterator[bytes]:
    header = _header(name, tarfile.REGTYPE, 0o600)
    header.size = len(body)
    yield header.tobuf(tarfile.PAX_FORMAT) + body + _padding(len(body))


def _header(name: str, type: bytes, mode: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.mode, header.mtime = type, mode, int(time.time())
    return header


def _padding(size: int) -> bytes:
    return b"\0" * (-size % tarfile.BLOCKSIZE)


class _Member(tarfile.TarInfo):
    """A member of an archive, whose header is bounded."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.type in _EXTENSIONS and member.size > MAX_EXTENSION_BYTES:
            raise tarfile.ReadError("a header is too long")
        return member


def _opened(source: IO[bytes]) -> tarfile.TarFile:
    return tarfile.open(fileobj=source, mode="r|", tarinfo=_Member)


def _next(archive: tarfile.TarFile) -> _Member | None:
    """The next member; None at the end. tarfile would keep all of them."""
    member = archive.next()
    archive.members.clear()  # type: ignore[attr-defined]
    return member  # type: ignore[return-value]


def described(source: IO[bytes]) -> dict[str, Any]:
    """The description at the beginning of a backup. Raises BACKUP_DAMAGED, LAYOUT_NEWER and OSError."""
    try:
        with _opened(source) as archive:
            return _described(archive, _next(archive))[0]
    except _UNREADABLE as exc:
        raise _damaged("it is cut short or not a backup", exc) from exc


def unpack(source: IO[bytes], directory: Path) -> dict[str, Any]:
    """Restore a backup to an empty directory, and return its description.

    Raises BACKUP_DAMAGED if a file is missing, changed or unexpected, and LAYOUT_NEWER. The caller removes the
    directory after an error. Raises OSError.
    """
    found: dict[str, str] = {}
    links: dict[Path, str] = {}
    description: dict[str, Any] | None = None
    try:
        with _opened(source) as archive:
            while (member := _next(archive)) is not None:
                if description is None:
                    description, found[DESCRIPTION] = _described(archive, member)
                elif member.name == SUMS:
                    _compare(_checksums(archive, member, found), found, description["files"])
                    # Links have no checksum. Older backups do not count them.
                    if len(links) != description.get("links", len(links)):
                        raise _damaged("links are missing")
                    _create_links(links)
                    return description
                elif member.issym():
                    links[_path(directory, member.name)] = _checked_target(member)
                elif member.name in found:
                    raise _damaged(f"{member.name} is in it twice")
                else:
                    _extract(archive, member, _path(directory, member.name), found)
    except _UNREADABLE as exc:
        raise _damaged("it is cut short or not a backup", exc) from exc
    raise _damaged("it is cut short" if description is not None else "it is empty")


def _described(archive: tarfile.TarFile, member: tarfile.TarInfo | None) -> tuple[dict[str, Any], str]:
    """The description and its checksum."""
    if member is None or member.name != DESCRIPTION or member.size > MAX_DESCRIPTION_BYTES:
        raise _damaged("it is not a backup of rookery")
    body = _content(archive, member)
    # Unlike json, it accepts only what can be printed as JSON again.
    description = orjson.loads(body)
    if not isinstance(description, dict) or not isinstance(description.get("files"), int):
        raise _damaged("it is not a backup of rookery")
    tables = description.get("tables")
    if not isinstance(tables, dict) or not all(
        isinstance(t, dict) and type(t.get("rows")) is int and t["rows"] >= 0 for t in tables.values()
    ):
        raise _damaged("its description is not complete")
    layout = description.get("layout")
    if not isinstance(layout, int) or description.get("format") != FORMAT or layout > LAYOUT_VERSION:
        if isinstance(layout, int) and layout > LAYOUT_VERSION:
            raise newer_layout_error("the backup", layout)
        raise _damaged(f"its format {errors.shown(description.get('format'))} is not supported")
    known = {key: value for key, value in description.items() if key in _KEYS}
    named = [known.get("positions", {}), *tables.values()]
    values = [v for k, v in known.items() if k not in ("tables", "positions")]
    if not all(isinstance(n, dict) for n in named) or any(
        isinstance(v, dict | list) for v in (*values, *(v for n in named for v in n.values()))
    ):
        raise _damaged("its description is not that of a backup")
    return known, hashlib.sha256(body).hexdigest()


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member) if _is_plain(member) else None
    if file is None:
        raise _damaged(f"{member.name} is not a file")
    return file.read()


def _checksums(archive: tarfile.TarFile, member: tarfile.TarInfo, found: Mapping[str, str]) -> bytes:
    """The list of checksums, which has one line for each file."""
    if member.size > sum(len(digest) + len("  \n") + len(os.fsencode(name)) for name, digest in found.items()):
        raise _damaged("its checksums name other files")
    return _content(archive, member)


def _is_plain(member: tarfile.TarInfo) -> bool:
    """Whether a member is a file as `pack` writes it. A sparse file can be larger than the backup."""
    return member.isreg() and not member.issparse()


def _path(directory: Path, name: str) -> Path:
    """Where a member belongs, which must be below the directory."""
    parts = PurePosixPath(name).parts
    if (
        name.startswith("/")
        or len(parts) < 2
        or parts[0] != DATA
        or ".." in parts
        or "\0" in name
        or len(name) > MAX_NAME
    ):
        raise _damaged(f"{errors.shown(name)} does not belong in it")
    return directory.joinpath(*parts[1:])


def _checked_target(member: tarfile.TarInfo) -> str:
    """The target of a symbolic link: only the engine's own are accepted, within the data directory."""
    target = normpath(join(dirname(member.name), member.linkname))
    if _LINK_TARGET.fullmatch(member.linkname) is None or not target.startswith(f"{DATA}/store/"):
        raise _damaged(f"the link {errors.shown(member.name)} points elsewhere")
    return member.linkname


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path, found: dict[str, str]) -> None:
    """Create a directory or a file, and note the checksum of the file."""
    if member.isdir():
        _make_directory(target)
        return
    content = archive.extractfile(member) if _is_plain(member) else None
    if content is None:
        raise _damaged(f"{errors.shown(member.name)} does not belong in it")
    _make_directory(target.parent)
    digest = hashlib.sha256()
    # "x" never overwrites, and the descriptor is private from the start.
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR)
    with os.fdopen(descriptor, "wb") as file:
        while chunk := content.read(CHUNK_BYTES):
            digest.update(chunk)
            file.write(chunk)
        if file.tell() != member.size:
            raise _damaged(f"{errors.shown(member.name)} is cut short")
    found[member.name] = digest.hexdigest()


def _compare(sums: bytes, found: Mapping[str, str], files: int) -> None:
    """Raise BACKUP_DAMAGED unless the files are exactly those of the checksums."""
    expected = {}
    for line in sums.decode().splitlines():
        match = _SUM.fullmatch(line)
        if match is None:
            raise _damaged("its checksums cannot be read")
        expected[match[2]] = match[1]
    if len(expected) != files + 1 or expected.keys() != found.keys():
        raise _damaged("files are missing")
    changed = sorted(n for n, digest in expected.items() if found[n] != digest)
    if changed:
        raise _damaged(f"{errors.shown(changed[0])} has changed")


def _create_links(links: Mapping[Path, str]) -> None:
    """Create the symbolic links. They come last, so that no file is written through one."""
    for path, target in links.items():
        # Its target was checked relative to the directory that its name states.
        if any(parent in links for parent in path.parents):
            raise _damaged(f"the link {errors.shown(path.name)} is below another link")
        _make_directory(path.parent)
        path.symlink_to(target)


def _make_directory(path: Path) -> None:
    """Create a directory and its parents, all of them private."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        directory.mkdir(mode=0o700)


def _damaged(why: str, cause: BaseException | None = None) -> RookeryError:
    return RookeryError(
        errors.BACKUP_DAMAGED,
        f"the backup cannot be restored: {why}",
        hint="nothing was restored: use another copy of the file",
        detail=repr(cause) if cause is not None else None,
    )


def restore(source: Path, directory: Path) -> dict[str, Any]:
    """Restore a backup to a directory that is empty or does not exist. Returns the description of the backup.

    The directory gets its name only when every file is checked. Raises ALREADY_EXISTS, BACKUP_DAMAGED and
    LAYOUT_NEWER, all without any change, and OSError.
    """
    # A link to an empty directory cannot be replaced, but the directory can.
    directory = Path(os.path.realpath(directory))
    require_empty(directory)
    directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with unfinished_directory(directory.parent, RESTORE) as temporary:
        with source.open("rb") as file:
            description = unpack(file, temporary.path)
        # The files must be on the disk before the directory has its name, even if the power fails in between.
        os.sync()
        # An empty directory is replaced. If anything else has appeared there, this fails.
        try:
            temporary.path.rename(directory)
        except OSError:
            # Another restore may have been faster.
            require_empty(directory)
            raise
    return description


def require_empty(directory: Path) -> None:
    """Raise ALREADY_EXISTS unless the directory is empty or does not exist."""
    if os.path.lexists(directory) and not (directory.is_dir() and not any(directory.iterdir())):
        raise RookeryError(
            errors.ALREADY_EXISTS,
            f"{directory} already exists and is not empty",
            hint="name another directory, or stop its server and move it away; nothing is ever overwritten",
        )
    if os.path.ismount(directory):
        raise RookeryError(
            errors.ALREADY_EXISTS,
            f"{directory} is a mount point, which cannot be replaced",
            hint=f"name a directory in it, such as {directory / 'data'}",
        )
