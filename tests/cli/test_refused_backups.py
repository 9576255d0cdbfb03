"""`rookery restore` of damaged, hostile and foreign files: they are refused, and nothing is written."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

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
    (tmp_path / "in" / "bad.tar").write_bytes(rewritten(saved.read_bytes(), lambda name: True, *more))
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
@pytest.mark.parametrize("tables", [None, [], {"main.x": 1}, {"main.x": {}}, {"main.x": {"rows": "1"}}], ids=str)
def test_a_backup_with_another_description_is_refused(saved: Path, tmp_path: Path, tables: object) -> None:
    with tarfile.open(saved) as archive:
        description = json.load(archive.extractfile("backup.json") or io.BytesIO())
    body = json.dumps({**description, "tables": tables, "files": 0, "links": 0}).encode()
    sums = f"{hashlib.sha256(body).hexdigest()}  backup.json\n".encode()
    with tarfile.open(tmp_path / "bad.tar", mode="w") as archive:
        for name, content in (("backup.json", body), ("SHA256SUMS", sums)):
            header = member(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    assert "RK7020" in Cli(tmp_path)("restore", "bad.tar", "data", code=1).err
    assert left(tmp_path) == ["bad.tar"]


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
