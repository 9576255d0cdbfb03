"""Writes of a running server that fail: a preloaded library counts those into its directory, and fails one of them.

strace could not tell these from writes into pipes and sockets. The library is compiled by the test.
"""

from __future__ import annotations

import errno
import mmap
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fanout.failing_calls import Fault, SentRows, Trial, new_batch, post, repeat_until_stored
from tests.support.server import Server

SOURCE = Path(__file__).with_name("failing_writes.c")
CALLS = {"write": 0, "short write": 1}
"""A write of which nothing is stored, and one of which half is; the rest fails."""
_HEAD = struct.Struct("8i")
_PATH, _ONLY = 512, 128
_SIZE = _HEAD.size + _PATH + _ONLY


def reason_to_skip() -> str | None:
    """Why writes cannot be made to fail here; None if they can."""
    return None if shutil.which("cc") else "there is no C compiler"


class Writes:
    """The writes of servers over one directory that are started with this `environment`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        library, shared = directory / "failing_writes.so", directory / "failing_writes.control"
        command = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library), str(SOURCE), "-ldl"]
        subprocess.run(command, check=True)
        shared.write_bytes(bytes(_SIZE))
        with shared.open("r+b") as file:
            self._control = mmap.mmap(file.fileno(), _SIZE)
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAILING_WRITES": str(shared),
            "FAILING_BELOW": str((directory / ".rookery").resolve()),
        }

    def send(self, server: Server, sent: SentRows, fault: Fault, only: str = "", times: int = 1) -> Trial:
        """Send one batch while a write fails, and again until it is stored. `only` and `times` as for `failing`."""
        trial = Trial(fault, 0)
        batch = new_batch()
        with self.failing(fault, only, times):
            trial.statuses.append(post(server, batch, str(fault)))
        trial.file = self.failed
        trial.failed = int(bool(trial.file))
        repeat_until_stored(server, trial, batch, sent)
        return trial

    @contextmanager
    def failing(self, fault: Fault, only: str = "", times: int = 1) -> Iterator[None]:
        """The fault's write fails, counted from now on, unless fewer are made, and so many in all.

        Only writes into files whose path contains `only` count.
        """
        self.prepare(fault, only, times)
        self._control[0] = 1
        try:
            yield
        finally:
            self._control[0] = 0

    def prepare(self, fault: Fault, only: str = "", times: int = 1) -> None:
        """As `failing`, but the fault waits until the process itself sets the first byte of the control file."""
        at = _HEAD.size + _PATH
        self._control[at : at + _ONLY] = only.encode().ljust(_ONLY, b"\0")
        error = getattr(errno, fault.error)
        _HEAD.pack_into(self._control, 0, 0, fault.when, error, CALLS[fault.call], 0, 0, 0, times)

    @property
    def seen(self) -> int:
        """Writes while one was to fail, the rest of a short one not counted."""
        return int(_HEAD.unpack_from(self._control, 0)[4])

    @property
    def failed(self) -> str:
        """The file whose write failed; empty if none did."""
        if not _HEAD.unpack_from(self._control, 0)[5]:
            return ""
        return self._control[_HEAD.size : _HEAD.size + _PATH].split(b"\0")[0].decode()
