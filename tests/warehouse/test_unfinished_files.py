"""Unfinished files and directories of many commands at the same time, each of which removes abandoned ones."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.warehouse.unfinished import SCRATCH, remove_abandoned, unfinished_directory, unfinished_file


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


def test_what_others_left_in_a_shared_directory_does_not_stop_a_command(tmp_path: Path) -> None:
    deep = tmp_path / f"{SCRATCH}deep"
    deep.mkdir()
    here = os.open(deep, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    try:
        remove_abandoned(tmp_path)
    finally:
        subprocess.run(["rm", "-rf", deep], check=True)
    if os.geteuid() == 0:
        foreign = tmp_path / f"{SCRATCH}foreign"
        foreign.mkdir()
        os.chown(foreign, 12_345, 12_345)
        remove_abandoned(tmp_path)
        assert foreign.exists()
