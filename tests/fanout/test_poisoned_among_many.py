"""Tenant 17 of 500 fails in a running stream: no acknowledgement fails, the others stay up to date, and all is exact."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator

import pytest

from tests.fanout.house import CHECKSUM, House, house
from tests.fanout.stream import project

MANY = [str(n) for n in range(1, 501)]
BROKEN = "17"
_IDS = itertools.count(1)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("many")) as made:
        made.push(project("auto"))
        made.add(*MANY)
        yield made


def test_nobody_waits_for_it(home: House) -> None:
    assert home.workspace.current.modes["events"] == "routed", "so many are routed without being told"
    chance = random.Random(17)
    home.run(f"ALTER TABLE {home.nest(BROKEN)}.events ADD CONSTRAINT poison CHECK 0")
    lags = []
    for _ in range(25):
        some = {BROKEN, *chance.sample(MANY, 12)}
        home.append([{"tenant_id": int(t), "id": next(_IDS), "n": next(_IDS) % 100} for t in sorted(some)])
        begun = time.monotonic()
        assert home.visible([{"tenant_id": 1, "id": next(_IDS), "n": 1}])
        lags.append(time.monotonic() - begun)
    assert max(lags[5:]) < 5 + 20 * min(lags), f"the others' lag has grown: {lags}"
    stray = home.stray(BROKEN)
    assert stray is not None
    assert stray.error
    home.run(f"ALTER TABLE {home.nest(BROKEN)}.events DROP CONSTRAINT poison")
    home.router.nudge()
    home.caught_up()
    landed = home.rows(f"SELECT toString(tenant_id) AS t, {CHECKSUM} FROM main.events GROUP BY t ORDER BY t")
    found = [(t, *home.rows(f"SELECT {CHECKSUM} FROM {home.nest(t)}.events")[0]) for t, *_ in landed]
    assert found == landed
    assert BROKEN in {t for t, *_ in landed}
    assert home.differences([BROKEN, "1"]) == []
