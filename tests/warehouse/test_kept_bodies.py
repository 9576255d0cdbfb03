"""What a registry keeps in memory always equals what its table contains."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

import pytest

from engine.settings import Settings
from engine.warehouse.kept_bodies import Bodies, KeptBodies
from engine.workspace.opening import open_workspace
from engine.workspace.workspace import Workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    opened = open_workspace(Settings(data=tmp_path_factory.mktemp("kept") / "data"))
    yield opened
    opened.close()


@pytest.mark.feature
def test_a_write_during_a_read_is_not_missed() -> None:
    table: Bodies = {"tenant": {"1": "{}"}}
    kept = KeptBodies(uncounted=())

    def query(kinds: Iterable[str] | None) -> Bodies:
        result = {k: dict(named) for k, named in table.items() if kinds is None or k in kinds}
        # Another thread writes before the result is kept.
        if len(table["tenant"]) < 3:
            with kept.writing(["tenant"]):
                table["tenant"][str(len(table["tenant"]) + 1)] = "{}"
        return result

    assert [len(kept.read(["tenant"], query)["tenant"]) for _ in range(4)] == [1, 2, 3, 3]


@pytest.mark.feature
def test_a_read_during_a_write_is_not_kept() -> None:
    table: Bodies = {"token": {}}
    kept = KeptBodies(uncounted=())
    with kept.writing(["token"]):
        assert kept.read(["token"], lambda _: {"token": {}}) == {"token": {}}
        table["token"]["a"] = "{}"
    assert kept.read(["token"], lambda _: table) == table


@pytest.mark.feature
def test_only_changed_kinds_are_read_again() -> None:
    asked: list[list[str] | None] = []
    versions = iter(range(10))

    def query(kinds: Iterable[str] | None) -> Bodies:
        asked.append(None if kinds is None else sorted(kinds))
        return {"token": {"a": "{}"}}

    kept = KeptBodies(uncounted=["history"])
    kept.read(["token", "tenant"], query)
    kept.read(["tenant"], query)
    assert kept.version(lambda: next(versions)) == 0
    with kept.writing(["history"]):
        pass
    kept.read(["token", "tenant"], query)
    kept.read(["token", "history"], query)
    assert kept.version(lambda: next(versions)) == 0
    with kept.writing(["token"]):
        pass
    assert kept.version(lambda: next(versions)) == 1
    assert asked == [None, ["history"]]


@pytest.mark.feature
def test_threads_see_their_own_writes(workspace: Workspace) -> None:
    registry = workspace.registry
    failures: list[str] = []

    def write(name: str) -> None:
        for number in range(20):
            registry.write("sample", {name: {"number": number}})
            if registry.read("sample").get(name) != {"number": number}:
                failures.append(f"{name} {number}")

    threads = [threading.Thread(target=write, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    registry.read("sample")["a"]["number"] = 99
    assert registry.read("sample") == {n: {"number": 19} for n in ("a", "b", "c")}
    registry.remove("sample", ["a"])
    assert [*registry.read("sample")] == ["b", "c"]
