"""The memory limit of a container or service."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.machine_memory import machine_memory

GIB = 1 << 30


@pytest.mark.parametrize(
    ("own", "limits", "expected"),
    [
        ("0::/\n", {"": "1073741824\n"}, GIB),
        ("0::/system.slice/rookery.service\n", {"system.slice/rookery.service": "1073741824\n"}, GIB),
        ("0::/a/b/c\n", {"a": "1073741824", "a/b": "max\n", "a/b/c": "2147483648"}, GIB),
        ("1:memory:/a\n0::/b\n", {"a": "1", "b": "1073741824"}, GIB),
        ("0::/system.slice/other.service\n", {"system.slice/rookery.service": "4096"}, None),
        ("0::/a\n", {"a": "not a number"}, None),
        ("", {}, None),
    ],
    ids=["container", "systemd", "outer", "both-versions", "another-service", "unreadable", "none"],
)
def test_the_smallest_limit_of_the_own_groups_counts(
    tmp_path: Path, own: str, limits: dict[str, str], expected: int | None
) -> None:
    (tmp_path / "own").write_text(own)
    for group, text in limits.items():
        (tmp_path / "groups" / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / group / "memory.max").write_text(text)
    physical = machine_memory(tmp_path / "missing", tmp_path / "missing")
    assert physical > GIB
    assert machine_memory(tmp_path / "groups", tmp_path / "own") == (expected or physical)
