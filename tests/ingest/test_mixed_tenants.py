"""Small appends under tokens of different tenants share a batch, and each row gets its own token's tenant."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from engine.errors import INTERNAL, RookeryError
from engine.ingest.batch import MAX_JOINED_BYTES, Append, AppendResult
from engine.ingest.probation import MAX_BATCHES, Probation
from engine.ingest.quarantine_quota import id_prefix
from engine.ingest.values.staging import BOUND_TENANT_COLUMN
from engine.ingest.values.staging_mode import ModeSearch, StagingMode
from engine.warehouse.port import Input
from tests.ingest.waiting_appends import appends, line, results
from tests.support.in_process import Rookery, open_rookery
from tests.support.soak import paired, soak_rounds, soaking

DATASOURCE = """\
columns:
  - {{name: tenant_id, type: UInt32}}
  - {{name: id, type: String}}
  - {{name: n, type: UInt32, default: 7}}
  - {{name: payload, type: String, json: $.payload}}
  - {{name: city, type: String, json: $.payload.city}}
  - {{name: street, type: String, json: $.address.street}}
tenant: {{column: tenant_id, fanout: {fanout}}}
engine: {{sorting_key: [tenant_id, id]}}
"""
PLAIN = """\
columns:
  - {name: id, type: String}
  - {name: n, type: UInt32, default: 7}
engine: {sorting_key: [id]}
"""
FORGED_KEY = BOUND_TENANT_COLUMN


@pytest.fixture(scope="module", params=[pytest.param("direct", marks=pytest.mark.soak_only), "routed"])
def rookery(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with open_rookery(tmp_path_factory.mktemp("mixed")) as opened:
        events = DATASOURCE.format(fanout=request.param)
        other = DATASOURCE.format(fanout="direct" if request.param == "routed" else "routed")
        files = {"numbers": events, "others": other, "plain": PLAIN}
        opened.push({f"datasources/{name}.yaml": text for name, text in files.items()})
        opened.add("1", "2", placement="tables")
        yield opened


def stored(rookery: Rookery, datasource: str) -> list[tuple[str, str]]:
    return [
        (tenant, id)
        for tenant, id in rookery.rows(
            f"SELECT toString(tenant_id), id FROM main.{datasource} ORDER BY id, tenant_id"
        )
    ]


@pytest.mark.parametrize("datasource", ["numbers", "others"])
def test_each_nest_gets_its_own_rows(rookery: Rookery, datasource: str) -> None:
    """In both modes of fan-out."""
    sent = appends(datasource, [(str(1 + n % 3), line(id=f"nest {n}")) for n in range(9)])
    for answer in results(rookery, sent):
        assert isinstance(answer, AppendResult)
        assert answer.visible is None or answer.visible.result(60)
    for tenant in (1, 2):
        nest = [
            r[0]
            for r in rookery.rows(
                f"SELECT id FROM main_nest_{tenant}.{datasource} WHERE id LIKE 'nest %' ORDER BY id"
            )
        ]
        assert nest == [f"nest {n}" for n in range(9) if 1 + n % 3 == tenant]


FORGED = [
    b'{"%s": "2", "id": "forged"}',
    b'{"id": "forged", "%s": "2"}',
    b'{"%s": 2, "id": "forged"}',
    b'{"id": "forged"}\n{"id": "forged", "%s": null}',
    b'{"%s": "1", "id": "forged"}',
]
SPELLINGS: list[Callable[[str], str]] = [str, str.upper, lambda k: "".join(f"\\u{ord(c):04x}" for c in k)]


@pytest.mark.parametrize(("body", "spelling"), paired(FORGED, SPELLINGS), ids=range(len(FORGED) * len(SPELLINGS)))
def test_no_row_can_name_the_tenant_of_its_token(rookery: Rookery, body: bytes, spelling: Any) -> None:
    """Even a sender who knows the random name of the stage's column cannot write for another tenant."""
    rookery.run("TRUNCATE TABLE main.numbers")
    forged = body.replace(b"%s", spelling(FORGED_KEY).encode())
    sent = appends("numbers", [("3", forged), ("2", line(id="good")), ("3", line(id="later"))])
    results(rookery, sent)
    assert {tenant for tenant, id in stored(rookery, "numbers") if id != "good"} <= {"3"}
    assert ("2", "good") in stored(rookery, "numbers")


@pytest.mark.parametrize(
    "bad",
    [
        line(id="x", tenant_id=2),
        line(id="x", tenant_id=None),
        line(id="x", n="many"),
        b'{"id": "x"',
        b'{"id": "x"}}',
        b'[{"id": "x", "n": "many"}]',
        b'{"id": "x"}, {"id": "y", "tenant_id": "2"}',
        b"{}",
        b'{"id": "x", "n": 123456789012345678901234567890}',
        b'{"id": "x", "id": "y"}',
        b'{"id": "x\\q"}',
        b'\xff{"id": "x"}',
        b'{"id": "x", "address": ' + b"[" * 1010 + b"]" * 1010 + b"}",
        b'{"id": "x", "address": ' + b"[" * 1010 + b'{"door": 1}' + b"]" * 1010 + b"}",
    ],
)
def test_a_bad_append_has_the_same_result_as_alone(rookery: Rookery, bad: bytes) -> None:
    def outcome(answer: AppendResult | RookeryError) -> object:
        if isinstance(answer, RookeryError):
            return answer.code, answer.message
        return answer.rows, answer.quarantined, answer.first_bad_row, answer.unknown_keys

    rookery.run("TRUNCATE TABLE main.numbers")
    (alone,) = results(rookery, appends("numbers", [("1", bad)]))
    rookery.run("TRUNCATE TABLE main.numbers")
    others = [("2", line(id="good 2")), ("1", bad), ("3", line(id="good 3"))]
    answers = results(rookery, appends("numbers", others))
    assert outcome(answers[1]) == outcome(alone)
    assert [a.rows for a in (answers[0], answers[2]) if isinstance(a, AppendResult)] == [1, 1]
    assert [r for r in stored(rookery, "numbers") if r[1].startswith("good")] == [("2", "good 2"), ("3", "good 3")]


def test_a_bug_on_one_append_fails_no_other(rookery: Rookery, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine is the real one; only the bug is planted."""
    determine = ModeSearch.mode_of

    def mode_of(self: ModeSearch, body: bytes) -> StagingMode:
        if b"planted" in body:
            raise ZeroDivisionError
        return determine(self, body)

    monkeypatch.setattr(ModeSearch, "mode_of", mode_of)
    rookery.run("TRUNCATE TABLE main.numbers")
    bodies = [("2", line(id="good 2")), ("1", line(id="planted")), ("3", line(id="good 3"))]
    first, planted, last = results(rookery, appends("numbers", bodies))
    assert isinstance(planted, RookeryError) and planted.code is INTERNAL
    assert [a.rows for a in (first, last) if isinstance(a, AppendResult)] == [1, 1]


MODES = [
    b'{"id": "v", "n": ""}',
    b'{"id": "v", "payload": {"city": {"a": null, "b": 1.10}}}',
    b'{"id": "v", "payload": {"city": 1.10}}',
    b'{"id": "v", "\\u0078": 1}',
    b'{"id": "v", "payload": {"c\\u0069ty": "x"}}',
    b'{"id": "%s"}' % (b"9" * 45),
]


@pytest.mark.soak
@pytest.mark.parametrize("number", range(len(MODES)))
def test_a_value_does_not_depend_on_how_other_appends_are_staged(rookery: Rookery, number: int) -> None:
    def stored_with(others: list[bytes]) -> list[tuple[Any, ...]]:
        rookery.run("TRUNCATE TABLE main.numbers")
        bodies = [("2", other) for other in others] + [("1", MODES[number])]
        answers = results(rookery, appends("numbers", bodies))
        assert isinstance(answers[-1], AppendResult), answers[-1]
        columns = "id, n, payload, city"
        return [answers[-1].first_bad_row, *rookery.rows(f"SELECT {columns} FROM main.numbers WHERE tenant_id = 1")]

    alone = stored_with([])
    # Each pair once, and in the soak tier also the other way round.
    for other in MODES if soaking() else (MODES[(number + n) % len(MODES)] for n in (1, 2, 3)):
        assert stored_with([other]) == alone, other
    assert stored_with([body for body in MODES for _ in range(2)]) == alone


def test_receipts_count_the_rows_of_their_own_append(rookery: Rookery) -> None:
    sent = [
        Append("numbers", line(id="keyed") + b"\n" + line(id="keyed too"), Input.NDJSON, str(n), key="same key")
        for n in (1, 2, 3)
    ]
    for append in sent:
        append.digest = "of the body"
    answers = results(rookery, sent)
    assert [a.tenants for a in answers if isinstance(a, AppendResult)] == [{"1": 2}, {"2": 2}, {"3": 2}]


def test_a_writer_s_rows_stay_in_order(rookery: Rookery) -> None:
    """Lines, arrays and large bodies are stored in the order in which their writer sent them."""
    rookery.run("TRUNCATE TABLE main.numbers")
    large = b"\n".join(line(id="1 large", payload={"city": "x" * 1000}) for _ in range(MAX_JOINED_BYTES // 1000 + 1))
    bodies = [line(id="0 line"), large, b"[" + line(id="2 array") + b"]", line(id="3 line")]
    sent = [Append("numbers", body, Input.NDJSON, tenant) for body in bodies for tenant in ("1", "2", "3")]
    for answer in results(rookery, sent):
        assert isinstance(answer, AppendResult) and answer.rows
    for tenant in ("1", "2", "3"):
        ids = rookery.rows(
            f"SELECT id FROM main.numbers WHERE tenant_id = {tenant} GROUP BY id ORDER BY min(_block_number), min("
            "_block_offset)"
        )
        assert [r[0] for r in ids] == ["0 line", "1 large", "2 array", "3 line"]


def test_datasources_without_a_tenant_column_share_batches_too(rookery: Rookery) -> None:
    answers = results(rookery, appends("plain", [(str(n % 3), line(id=f"{n}")) for n in range(6)]))
    assert [a.rows for a in answers if isinstance(a, AppendResult)] == [1] * 6
    assert rookery.rows("SELECT count(), sum(n) FROM main.plain") == [(6, 42)]


@pytest.mark.soak
def test_random_writers_lose_nothing_and_mix_nothing(rookery: Rookery) -> None:
    chance = random.Random(11)
    rookery.run("TRUNCATE TABLE main.numbers")
    sent, expected = [], []
    for n in range(soak_rounds(40)):
        tenant = str(chance.randint(1, 3))
        kind = chance.choice(["good", "good", "named", "foreign", "bad", "array", "nested"])
        values: dict[str, Any] = {"id": f"{n:03}"}
        if kind in ("named", "foreign"):
            values["tenant_id"] = int(tenant) % 3 + 1 if kind == "foreign" else int(tenant)
        if kind == "bad":
            values["n"] = "many"
        if kind == "nested":
            values["payload"] = {"city": "here", "b": [1, {"c": None}]}
        body = b"[" + line(**values) + b"]" if kind == "array" else line(**values)
        sent.append(Append("numbers", body, Input.NDJSON, tenant))
        if kind not in ("foreign", "bad"):
            expected.append((tenant, f"{n:03}"))
    results(rookery, sent)
    assert stored(rookery, "numbers") == expected


@pytest.mark.parametrize("bound", [True, False])
def test_a_writer_with_bad_rows_does_not_keep_splitting_the_batches_of_others(rookery: Rookery, bound: bool) -> None:
    """After a failure its rows are stored separately, until they are sound again."""
    writers = [str(100 + n) for n in range(8)]

    def round_of(bad: dict[str, Any]) -> list[str]:
        bodies = [line(tenant_id=int(w), id="x", **(bad if w == writers[3] else {})) for w in writers]
        more = [{"bound_tenant": w} if bound else {"token": w} for w in writers]
        answers = results(
            rookery, [Append("numbers", b, Input.NDJSON, **m) for b, m in zip(bodies, more, strict=True)]
        )
        assert all(isinstance(a, AppendResult) for a in answers), answers
        return [a.batch for a in answers if isinstance(a, AppendResult)]

    first, second, third, fourth = (round_of(bad) for bad in ({"n": "many"}, {"n": "many"}, {}, {}))
    assert len(set(first)) > 2, "the failing batch is split"
    for batches in (second, third):
        assert len({b for n, b in enumerate(batches) if n != 3}) == 1
        assert batches[3] != batches[0]
    assert len(set(fourth)) == 1


def test_tenants_whose_ids_have_equal_digests_have_separate_quotas(
    rookery: Rookery, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = "77809", "147693"
    assert id_prefix(f"tenant {first}") == id_prefix(f"tenant {second}")
    settings = rookery.workspace.settings.model_copy(update={"quarantine_rows": 2})
    monkeypatch.setattr(rookery.workspace, "settings", settings)
    bad = line(id="x", n="many")
    kept = [results(rookery, appends("numbers", [(tenant, bad)])) for tenant in (first, first, first, second)]
    assert [a.quarantined for ((a),) in kept if isinstance(a, AppendResult)] == [1, 1, 0, 1]


def test_a_writer_that_alternates_bad_and_good_rows_shares_fewer_and_fewer_batches(rookery: Rookery) -> None:
    """Each bad row in a shared batch splits it, which would delay the other writers in every second batch."""
    writers = [str(200 + n) for n in range(8)]
    splits = 0
    for n in range(16):
        bodies = [line(id="x", **({"n": "many"} if w == writers[3] and n % 2 == 0 else {})) for w in writers]
        answers = results(rookery, appends("numbers", list(zip(writers, bodies, strict=True))))
        batches = {
            a.batch for a, w in zip(answers, writers, strict=True) if isinstance(a, AppendResult) and w != writers[3]
        }
        splits += len(batches) > 1
    assert splits <= 3


def test_bad_rows_are_forgotten_after_many_batches() -> None:
    probation = Probation()
    for _ in range(20):
        probation.fail("a")
        while "a" in probation.writers:
            probation.succeed({"a", "b"})
    probation.fail("a")
    for _ in range(MAX_BATCHES):
        assert "a" in probation.writers
        probation.succeed({"a"})
    assert "a" not in probation.writers
    for _ in range(MAX_BATCHES):
        assert probation
        probation.succeed({"a"})
    assert not probation
