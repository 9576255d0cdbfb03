"""The files that the fast tier leaves out exist."""

from __future__ import annotations

import pytest

from tests.conftest import HERE, slow_files


@pytest.mark.feature
def test_slow_files_exist() -> None:
    assert slow_files()
    missing = [str(f.relative_to(HERE)) for f in slow_files() if not f.is_file()]
    assert missing == []
