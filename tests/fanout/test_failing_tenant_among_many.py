"""Tenant 17 of 500 fails in a running stream: no request fails, the others stay up to date, and all tables are exact."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fanout.retrying_writers import project
from tests.support.in_process import CHECKSUM, House, house

MANY = [str(n) for n in range(1, 501)]
BROKEN = "17"
_IDS = itertools.count(1)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("many")) as made:
        made.push(project("auto"))
        made.add(*MANY)
        yield made


def _statements(home: House, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements from now on, except those for the failing tenant."""
    asked: list[str] = []
    warehouse = home.workspace.warehouse

    def counted(whole: Callable[..., Any]) -> Callable[..., Any]:
        def call(statement: Any, *args: Any, **kwargs: Any) -> Any:
            if home.nest(BROKEN) not in str(statement):
                asked.append(str(statement))
            return whole(statement, *args, **kwargs)

        return call

    for name in ("execute", "query"):
        monkeypatch.setattr(warehouse, name, counted(getattr(warehouse, name)))
    return asked


def test_one_failing_tenant_delays_no_other(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    assert home.workspace.current.modes["events"] == "routed", "this many tenants are routed by default"
    chance = random.Random(17)
    home.run(f"ALTER TABLE {home.nest(BROKEN)}.events ADD CONSTRAINT poison CHECK 0")
    asked, costs = _statements(home, monkeypatch), []
    for _ in range(25):
        some = {BROKEN, *chance.sample(MANY, 12)}
        home.append([{"tenant_id": int(t), "id": next(_IDS), "n": next(_IDS) % 100} for t in sorted(some)])
        before = len(asked)
        assert home.visible([{"tenant_id": 1, "id": next(_IDS), "n": 1}])
        costs.append(len(asked) - before)
    assert sum(costs[-5:]) <= 2 * sum(costs[:5]), f"what the others take has grown: {costs}"
    stray = home.stray(BROKEN)
    assert stray is not None
    assert stray.error
    home.run(f"ALTER TABLE {home.nest(BROKEN)}.events DROP CONSTRAINT poison")
    home.router.retry_now()
    home.caught_up()
    landed = home.rows(f"SELECT toString(tenant_id) AS t, {CHECKSUM} FROM main.events GROUP BY t ORDER BY t")
    found = [(t, *home.rows(f"SELECT {CHECKSUM} FROM {home.nest(t)}.events")[0]) for t, *_ in landed]
    assert found == landed
    assert BROKEN in {t for t, *_ in landed}
    assert home.differences([BROKEN, "1"]) == []
