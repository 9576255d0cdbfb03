"""Unfinished files and directories of many commands at the same time, each of which removes abandoned ones."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.warehouse.unfinished import SCRATCH, unfinished_directory, unfinished_file


@pytest.mark.feature
def test_commands_at_the_same_time_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Between its creation and its lock, a directory looks abandoned."""

    def command(number: int) -> bool:
        create = unfinished_directory if number % 2 else unfinished_file
        with create(tmp_path, SCRATCH) as unfinished:
            return unfinished.path.exists() and os.path.samestat(os.fstat(unfinished.lock), unfinished.path.stat())

    with ThreadPoolExecutor(12) as commands:
        assert all(commands.map(command, range(1200)))
    assert [*tmp_path.iterdir()] == []
