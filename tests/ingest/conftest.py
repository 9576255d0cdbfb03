"""A house with a datasource that has a column of every type, and one where they stand deeper in the event."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ingest.column_values import CASES, WHOLE, SentValues
from tests.support.in_process import House, house


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("values")) as made:
        made.push(
            {
                "datasources/plain.yaml": SentValues().take(CASES).take(WHOLE).datasource(""),
                "datasources/deeper.yaml": SentValues().take(CASES).datasource("$.m.{}"),
            }
        )
        yield made
