"""The memory that this process may use."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from pathlib import Path, PurePosixPath

_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")


@cache
def machine_memory(groups: Path = _CONTROL_GROUPS, own_group: Path = _OWN_GROUP) -> int:
    """Memory of this machine or, if less, the limit of the container or service that this process runs in, in bytes.

    Each control group (version 2) that the process's own is part of may have a limit.
    """
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [physical]
    with suppress(OSError):
        lines = own_group.read_text().splitlines()
        path = next((PurePosixPath(line[3:]) for line in lines if line.startswith("0::")), PurePosixPath("/"))
        for group in (path, *path.parents):
            # The root of a machine has no file, and a group without a limit has the word `max`.
            with suppress(OSError, ValueError):
                limits.append(int((groups / group.relative_to("/") / "memory.max").read_text()))
    return min(limits)
