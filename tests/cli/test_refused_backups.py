"""`rookery restore` of damaged, hostile and foreign files: they are refused, and nothing is written."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import random
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli import backup_file
from engine.errors import ALREADY_EXISTS, BACKUP_DAMAGED, BACKUP_UNUSABLE, DISK_FULL, RookeryError
from engine.warehouse import archive as archives
from tests.cli.backups import fill, left
from tests.cli.commands import Cli, for_server
from tests.support.server import running


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of a workspace."""
    directory = tmp_path_factory.mktemp("saved")
    with running(tmp_path_factory.mktemp("backup") / "home") as server:
        fill(server)
        for_server(server, directory)("backup", "good.tar", "--no-verify")
    return directory / "good.tar"


def cut(body: bytes, chance: random.Random) -> bytes:
    return body[: chance.randrange(len(body))]


def flipped(body: bytes, chance: random.Random) -> bytes:
    """A bit of a file's content is changed: in data.bin, whose content nothing else checks at once."""
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        members = [m for m in archive if m.name.endswith("data.bin") and m.size]
    member = chance.choice(members)
    at = member.offset_data + chance.randrange(member.size)
    return body[:at] + bytes([body[at] ^ 1 << chance.randrange(8)]) + body[at + 1 :]


def noisy(body: bytes, chance: random.Random) -> bytes:
    """A few hundred random bytes somewhere."""
    at = chance.randrange(len(body) - 2_000)
    return body[:at] + chance.randbytes(700) + body[at + 700 :]


def without_a_file(body: bytes, chance: random.Random) -> bytes:
    return rewritten(body, lambda name: not name.endswith("count.txt"))


def without_a_link(body: bytes, chance: random.Random) -> bytes:
    return rewritten(body, lambda name: name != "data/metadata/main")


def without_sums(body: bytes, chance: random.Random) -> bytes:
    return rewritten(body, lambda name: name != "SHA256SUMS")


def rewritten(body: bytes, keeps: Callable[[str], bool], *more: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A backup without some members, and with others before the checksums."""
    target = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(body)) as source,
        tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for member in source:
            if member.name == "SHA256SUMS":
                for header, content in more:
                    header.size = len(content)
                    archive.addfile(header, io.BytesIO(content))
            if keeps(member.name):
                archive.addfile(member, source.extractfile(member) if member.isreg() else None)
    return target.getvalue()


@pytest.mark.feature
@pytest.mark.parametrize(
    ("damage", "seed"),
    [
        *((damage, seed) for damage in (cut, flipped, noisy) for seed in range(2)),
        *(
            pytest.param(damage, seed, marks=pytest.mark.soak_only)
            for damage in (cut, flipped, noisy)
            for seed in range(2, 10)
        ),
        *((damage, 0) for damage in (without_a_file, without_a_link, without_sums)),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_damaged_backup_restores_nothing(
    saved: Path, tmp_path: Path, damage: Callable[[bytes, random.Random], bytes], seed: int
) -> None:
    (tmp_path / "bad.tar").write_bytes(damage(saved.read_bytes(), random.Random(f"{damage.__name__} {seed}")))
    refused = Cli(tmp_path)("restore", "bad.tar", "data", code=1)
    assert "RK7020" in refused.err
    assert left(tmp_path) == ["bad.tar"]


def packed(description: dict[str, Any], more: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """A backup with a description, some members, and their checksums."""
    files = [(header, content) for header, content in more if header.isreg()]
    body = json.dumps({**description, "files": len(files), "links": len(more) - len(files)}).encode()
    members = [(member("backup.json"), body), *more]
    sums = "".join(f"{hashlib.sha256(b).hexdigest()}  {h.name}\n" for h, b in members if h.isreg())
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for header, content in (*members, (member("SHA256SUMS"), sums.encode())):
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return target.getvalue()


def member(name: str, type: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.linkname = type, target
    return header


HOSTILE = {
    "above": [member("data/../../escaped")],
    "absolute": [member("/data/escaped")],
    "elsewhere": [member("escaped")],
    "link above": [member("data/metadata/link", tarfile.SYMTYPE, "../../..")],
    "link to a file": [member("data/link", tarfile.SYMTYPE, "/etc/passwd")],
    "link above to a store": [
        member("data/metadata/link", tarfile.SYMTYPE, "../../store/abc/00000000-0000-0000-0000-000000000000")
    ],
    "a link below a link": [
        member("data/m/x/y/a", tarfile.SYMTYPE, "../../../store/abc/00000000-0000-0000-0000-000000000000"),
        member(
            "data/m/x/y/a/b/c/d/e",
            tarfile.SYMTYPE,
            "../../../../../../../store/abc/00000000-0000-0000-0000-000000000000",
        ),
        member("data/store/abc/00000000-0000-0000-0000-000000000000/file"),
    ],
    "through a link": [
        member("data/a", tarfile.SYMTYPE, "../store/abc/00000000-0000-0000-0000-000000000000"),
        member("data/a/escaped"),
    ],
    "hard link": [member("data/hard", tarfile.LNKTYPE, "data/rookery.layout")],
    "device": [member("data/device", tarfile.CHRTYPE)],
    "pipe": [member("data/pipe", tarfile.FIFOTYPE)],
    "twice": [member("data/rookery.layout")],
    "unlisted": [member("data/store/unlisted")],
    "long": [member("data/" + "x" * 5_000)],
    "file as a directory": [member("data/rookery.layout/file")],
}


@pytest.mark.feature
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_backup_writes_nothing_outside(saved: Path, tmp_path: Path, kind: str) -> None:
    more = [(h, b"x" if h.isreg() else b"") for h in HOSTILE[kind]]
    (tmp_path / "in").mkdir()
    with tarfile.open(saved) as archive:
        description = json.load(archive.extractfile("backup.json") or io.BytesIO())
    body = rewritten(saved.read_bytes(), lambda name: True, *more)
    if kind not in ("twice", "unlisted", "file as a directory"):
        # Also its checksums are as they should be.
        body = packed(description, more)
    (tmp_path / "in" / "bad.tar").write_bytes(body)
    refused = Cli(tmp_path / "in")("restore", "bad.tar", "data", code=1)
    assert "RK7020" in refused.err
    assert left(tmp_path) == ["in"]
    assert left(tmp_path / "in") == ["bad.tar"]


@pytest.mark.feature
@pytest.mark.parametrize("body", [b"", b"x", b"\0" * 20_000, b"x" * 20_000, b"\x1f\x8b" + b"x" * 600], ids=len)
def test_a_file_that_is_not_a_backup(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "bad.tar").write_bytes(body)
    assert "RK7020" in Cli(tmp_path)("restore", "bad.tar", "data", code=1).err
    assert left(tmp_path) == ["bad.tar"]


@pytest.mark.feature
@pytest.mark.parametrize(
    "tables",
    [None, [], {"main.x": 1}, {"main.x": {}}]
    + [{"main.x": {"rows": rows}} for rows in ("1", -1, 10**4299)]
    + [{"\ud800": {"rows": 1}}, {"main.x": {"rows": 1, "parts": float("nan")}}],
    ids=lambda tables: ascii(tables)[:40],
)
def test_a_backup_with_another_description_is_refused(saved: Path, tmp_path: Path, tables: object) -> None:
    with tarfile.open(saved) as archive:
        description = json.load(archive.extractfile("backup.json") or io.BytesIO())
    (tmp_path / "bad.tar").write_bytes(packed({**description, "tables": tables}, []))
    assert "RK7020" in Cli(tmp_path)("restore", "bad.tar", "data", code=1).err
    assert left(tmp_path) == ["bad.tar"]


def test_a_description_does_not_add_to_the_outcome(saved: Path, tmp_path: Path) -> None:
    with tarfile.open(saved) as archive:
        description = json.load(archive.extractfile("backup.json") or io.BytesIO())
    deep: list[Any] = []
    for _ in range(900):
        deep = [deep]
    more = {"findings": 5, "verified": True, "directory": "/", "deep": deep}
    (tmp_path / "odd.tar").write_bytes(packed({**description, **more}, [(member("data/rookery.layout"), b"x")]))
    assert "verified" not in Cli(tmp_path)("restore", "odd.tar", "one").text
    shown = Cli(tmp_path)("--json", "restore", "odd.tar", "two").json
    assert shown["directory"] == "two" and not shown.keys() & {"findings", "verified", "deep"}
    for key, value in (("rookery", deep), ("positions", []), ("positions", {"x": deep}), ("workspace", [])):
        (tmp_path / "odd.tar").write_bytes(packed({**description, key: value}, []))
        assert "RK7020" in Cli(tmp_path)("restore", "odd.tar", "three", code=1).err, key


@pytest.mark.parametrize("workspace", [{}, {"workspace": "a\0b"}, {"workspace": 5}], ids=str)
def test_a_backup_must_name_its_workspace_to_be_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workspace: dict[str, Any]
) -> None:
    monkeypatch.setattr(archives, "restore", lambda *_: {})
    (tmp_path / "b.tar").write_bytes(b"a backup")
    with pytest.raises(RookeryError, match="workspace") as caught:
        backup_file.verify(tmp_path / "b.tar", workspace)
    assert caught.value.code is BACKUP_UNUSABLE


@pytest.mark.feature
def test_a_backup_of_a_newer_program_is_refused(saved: Path, tmp_path: Path) -> None:
    with tarfile.open(saved) as archive:
        description = json.load(archive.extractfile("backup.json") or io.BytesIO())
    newer = json.dumps({**description, "layout": 99}).encode()
    header = member("backup.json")
    header.size = len(newer)
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        archive.addfile(header, io.BytesIO(newer))
    (tmp_path / "newer.tar").write_bytes(target.getvalue())
    assert "RK6013" in Cli(tmp_path)("restore", "newer.tar", "data", code=6).err
    assert left(tmp_path) == ["newer.tar"]


class Counted(io.BytesIO):
    """The beginning of a large file. Counts the bytes that are read, and then reads zeros."""

    count = 0

    def read(self, size: int | None = -1) -> bytes:
        assert size is not None and 0 <= size <= 1 << 20
        self.count += size
        return super().read(size).ljust(size, b"\0")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, b"0"], ids=str)
@pytest.mark.parametrize("described", [False, True], ids=["first", "later"])
def test_huge_headers_and_lists_are_not_read(saved: Path, tmp_path: Path, kind: bytes, described: bool) -> None:
    with tarfile.open(saved) as archive:
        description = json.load(archive.extractfile("backup.json") or io.BytesIO())
    huge = member("SHA256SUMS", kind)
    huge.size = 2 << 30
    complete = packed({**description, "files": 0}, [])
    source = Counted((complete[: complete.index(b"SHA256SUMS")] if described else b"") + huge.tobuf())
    with pytest.raises(RookeryError) as refused:
        archives.unpack(source, tmp_path)
    assert refused.value.code is BACKUP_DAMAGED
    assert source.count < 1 << 20


@pytest.mark.parametrize("directory", [b"d\xff", b"a/b/c"], ids=ascii)
def test_a_restored_directory_is_private_and_may_have_any_name(saved: Path, tmp_path: Path, directory: bytes) -> None:
    name = os.fsdecode(directory)
    assert Cli(tmp_path)("restore", "--json", saved, name).json["tables"]
    shared = [p for p in (tmp_path / name).rglob("*") if not p.is_symlink() and p.stat().st_mode & 0o077]
    assert shared == []


def test_a_copy_that_does_not_fit_is_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(archives, "restore", full)
    (tmp_path / "b.tar").write_bytes(b"a backup")
    with pytest.raises(RookeryError, match="verifies") as caught:
        backup_file.verify(tmp_path / "b.tar", {})
    assert caught.value.code.id == DISK_FULL.id
    assert "--no-verify" in str(caught.value.hint)
    assert left(tmp_path) == ["b.tar"]


def test_a_backup_is_restored_through_a_link_but_not_over_a_mount_point_or_another_restore(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "large disk").mkdir()
    (tmp_path / "data").symlink_to("large disk")
    backup_file.restored(saved, tmp_path / "data")
    assert (tmp_path / "large disk" / "rookery.layout").exists()
    assert left(tmp_path) == ["data", "large disk"]

    def faster(*_: Any) -> dict[str, Any]:
        (tmp_path / "new" / "store").mkdir(parents=True)
        return {}

    monkeypatch.setattr(archives, "unpack", faster)
    with pytest.raises(RookeryError, match="not empty") as caught:
        backup_file.restored(saved, tmp_path / "new")
    assert caught.value.code is ALREADY_EXISTS
    monkeypatch.setattr(os.path, "ismount", lambda path: True)
    with pytest.raises(RookeryError, match="mount point") as caught:
        backup_file.restored(saved, tmp_path / "volume")
    assert caught.value.code is ALREADY_EXISTS


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS], ids=errno.errorcode.get)
def test_a_backup_is_written_to_a_file_system_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, "refused")

    synchronize = os.fsync

    def only_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "refused")
        synchronize(descriptor)

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "fsync", only_files)
    with backup_file.written(tmp_path / "b.tar") as partial:
        partial.write_bytes(b"x")
    assert (tmp_path / "b.tar").read_bytes() == b"x"
    assert left(tmp_path) == ["b.tar"]
    with pytest.raises(RookeryError) as caught, backup_file.written(tmp_path / "b.tar"):
        pass
    assert caught.value.code is ALREADY_EXISTS
