"""Tenant 17 of many fails in a running stream: no request fails, the others stay up to date, and all tables are exact."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fanout.retrying_writers import project
from tests.support.in_process import CHECKSUM, Rookery, open_rookery
from tests.support.soak import soak_rounds, soaking

MANY = [str(n) for n in range(1, 201 if soaking() else 37)]
BROKEN = "17"
_IDS = itertools.count(1)


@pytest.fixture(scope="module")
def rookery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with open_rookery(tmp_path_factory.mktemp("many")) as opened:
        opened.push(project("auto"))
        opened.add(*MANY)
        yield opened


def _statements(rookery: Rookery, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements from now on, except those for the failing tenant."""
    statements: list[str] = []
    warehouse = rookery.workspace.warehouse

    def counted(whole: Callable[..., Any]) -> Callable[..., Any]:
        def call(statement: Any, *args: Any, **kwargs: Any) -> Any:
            if rookery.nest(BROKEN) not in str(statement):
                statements.append(str(statement))
            return whole(statement, *args, **kwargs)

        return call

    for name in ("execute", "query"):
        monkeypatch.setattr(warehouse, name, counted(getattr(warehouse, name)))
    return statements


@pytest.mark.soak
def test_one_failing_tenant_delays_no_other(rookery: Rookery, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rookery.workspace.current.modes["events"] == "routed", "this many tenants are routed by default"
    chance = random.Random(17)
    rookery.run(f"ALTER TABLE {rookery.nest(BROKEN)}.events ADD CONSTRAINT poison CHECK 0")
    statements, costs = _statements(rookery, monkeypatch), []
    for _ in range(soak_rounds(14)):
        some = {BROKEN, *chance.sample(MANY, 12)}
        rookery.append([{"tenant_id": int(t), "id": next(_IDS), "n": next(_IDS) % 100} for t in sorted(some)])
        before = len(statements)
        assert rookery.deliver([{"tenant_id": 1, "id": next(_IDS), "n": 1}])
        costs.append(len(statements) - before)
    assert sum(costs[-5:]) <= 2 * sum(costs[:5]), f"what the others take has grown: {costs}"
    stray = rookery.lagging_group(BROKEN)
    assert stray is not None
    assert stray.error
    rookery.run(f"ALTER TABLE {rookery.nest(BROKEN)}.events DROP CONSTRAINT poison")
    rookery.router.retry_now()
    rookery.wait_until_caught_up()
    landed = rookery.rows(f"SELECT toString(tenant_id) AS t, {CHECKSUM} FROM main.events GROUP BY t ORDER BY t")
    rows = [(t, *rookery.rows(f"SELECT {CHECKSUM} FROM {rookery.nest(t)}.events")[0]) for t, *_ in landed]
    assert rows == landed
    assert BROKEN in {t for t, *_ in landed}
    assert rookery.differences([BROKEN, "1"]) == []
