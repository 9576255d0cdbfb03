"""A backup that cannot copy a file: the error says why, and neither a copy nor a lock remains."""

from __future__ import annotations

import errno
import os
import shutil
from typing import Any

import pytest

from engine.backup.embedded import backups_of
from engine.errors import DISK_FULL, RookeryError
from engine.warehouse.directory_copy import COPIES
from tests.control.conftest import Billing


@pytest.mark.parametrize("file", ["deduplication_log", ".sql", "format_version.txt"])
def test_a_full_disk_is_reported_as_such(billing: Billing, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    copyfile = shutil.copyfile

    def full(source: Any, target: Any, **kwargs: Any) -> Any:
        if file in str(source):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        return copyfile(source, target, **kwargs)

    backups = backups_of(billing.workspace)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfile", full)
        with pytest.raises(RookeryError) as caught:
            backups.start()
    assert caught.value.code.id == DISK_FULL.id
    assert billing.workspace.warehouse.directory is not None
    assert not list((billing.workspace.warehouse.directory / COPIES).iterdir())
    backups.start().close()
