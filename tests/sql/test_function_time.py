"""Functions end soon after a query's time limit, whatever their arguments. `benchmarks.bounds` calls all of them."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from benchmarks.bounds import OVERSHOOT_SECONDS, Engine, calls_of, scalar_calls, spelled
from engine.sql.functions import sections
from tests.support.soak import soak_rounds

SEED, SAMPLE = 3, soak_rounds(1)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    made = Engine()
    yield made
    made.close()


def test_every_function_is_called() -> None:
    lists = sections()
    names = lists["plain"] | lists["lambda"] | lists["aggregate"]
    assert {name.lower() for name in spelled(sorted(names))} == names


KNOWN = {
    "hasAll": ("ints", "ints"),
    "hasSubstr": ("ints", "ints"),
    "damerauLevenshteinDistance": ("text", "text"),
    "polygonsIntersectionCartesian": ("ring", "ring"),
}
"""Functions that once worked for minutes, with the arguments for which they did."""


@pytest.mark.parametrize("name", KNOWN)
def test_slow_functions_end(engine: Engine, name: str) -> None:
    for call in scalar_calls(name, KNOWN[name]):
        answer = engine.ask({"sql": call.sql})
        assert answer is not None, f"killed: {call.sql}"
        assert answer[2] < OVERSHOOT_SECONDS, call.sql


@pytest.mark.soak_only
def test_a_sample_of_all_functions_ends(engine: Engine) -> None:
    names = spelled(sorted(sections()["plain"]))
    for name in random.Random(SEED).sample(names, SAMPLE):
        for call in calls_of(engine, name, random.Random(f"{SEED} {name}")):
            answer = engine.ask({"sql": call.sql})
            assert answer is not None, f"killed: {call.sql}"
            assert answer[2] < OVERSHOOT_SECONDS, call.sql
