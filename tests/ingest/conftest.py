"""Datasources with a column of every type: one reads top-level keys, the other reads deeper in the event."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ingest.column_values import CASES, WHOLE, SentValues
from tests.support.in_process import Rookery, open_rookery


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with open_rookery(tmp_path_factory.mktemp("values")) as opened:
        opened.push(
            {
                "datasources/plain.yaml": SentValues().take(CASES).take(WHOLE).datasource(""),
                "datasources/deeper.yaml": SentValues().take(CASES).datasource("$.m.{}"),
            }
        )
        yield opened
