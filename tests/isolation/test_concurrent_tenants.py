"""Many tenants on few handles: no request gets data of another, whatever fails, stops or changes meanwhile."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from engine.control import tenants
from engine.errors import (
    BAD_TOKEN,
    NO_TENANT,
    RookeryError,
)
from engine.query import authorize
from engine.query.request import QueryRequest
from engine.warehouse.embedded_documents import MAX_BUFFERED_ROWS
from engine.warehouse.handles import Handle
from engine.warehouse.port import Format, Rows
from tests.isolation.five_tenants import PLACEMENTS, ROWS, rows_of, token_of
from tests.isolation.services import Service
from tests.support.soak import soak_rounds

REQUESTS = soak_rounds(150)
STAY = tuple(PLACEMENTS)


class Asker:
    """Sends requests in turn and looks for words of other tenants in the responses."""

    def __init__(self, service: Service, tokens: dict[str, str]) -> None:
        self.service, self.tokens = service, tokens
        self.seen: Counter[str] = Counter()
        self.lock = threading.Lock()

    def ask(self, seed: int) -> None:
        pick = random.Random(seed)
        tenant = pick.choice(tuple(self.tokens))
        kind = pick.choices(
            ("words", "counted", "sql", "breaks", "broken sql", "large", "abandoned", "breaks_late", "slow", "short"),
            (28, 19, 19, 10, 8, 4, 5, 2, 2, 3),
        )[0]
        try:
            body = self._body(tenant, kind, pick)
        except RookeryError as exc:
            self._count(f"{kind}: {exc.code.id}")
            assert not self._foreign(tenant, json.dumps(exc.as_dict())), (kind, exc.as_dict())
            return
        self._count(kind)
        text = body.decode("latin-1")
        assert not self._foreign(tenant, text), (kind, tenant, text[:300])
        assert kind == "abandoned" or f"{tenant}-word-" in text, (kind, tenant, text[:300])
        if kind in ("words", "counted", "sql"):
            document = json.loads(body)
            assert document["rows"] == len(document["data"]) == ROWS

    def _body(self, tenant: str, kind: str, pick: random.Random) -> bytes:
        token, service = self.tokens[tenant], self.service
        if kind == "sql":
            return service.sql(token, "SELECT word, k FROM events ORDER BY k")
        if kind == "broken sql":
            return service.sql(token, pick.choice((
                "SELECT word, toInt64(word) FROM events", "SELECT word, intDiv(k, k - 20) FROM events ORDER BY k",
                "SELECT nothing FROM events", "SELECT word FROM events WHERE throwIf(k = 30) = 0",
            )))  # fmt: skip
        format = pick.choice(tuple(Format)) if kind in ("breaks", "large") else Format.JSON
        if kind != "abandoned":
            name = "words" if kind == "words" else kind
            return service.call(token, name, {}, Format.CSV if format is Format.PARQUET else format)
        claims = authorize.authenticate(service.workspace, token)
        answer = service.queries.endpoint(QueryRequest(claims, format=Format.NDJSON), "large")
        head = answer.head + (answer.next_chunk() or b"" if pick.random() < 0.5 else b"")
        answer.close()
        return head

    def _foreign(self, tenant: str, text: str) -> list[str]:
        return [t for t in (*PLACEMENTS, "fox", "gnu") if t != tenant and f"{t}-word" in text]

    def _count(self, what: str) -> None:
        with self.lock:
            self.seen[what] += 1


@pytest.mark.soak
@pytest.mark.proves("D9", "A1")
def test_interleaved_requests_do_not_cross(service: Service) -> None:
    asker = Asker(service, {t: token_of(service, t) for t in STAY})
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(asker.ask, range(REQUESTS)))
    assert sum(asker.seen.values()) == REQUESTS
    for kind in ("words", "counted", "sql", "large", "abandoned"):
        assert asker.seen[kind] > 5, asker.seen
    failed = Counter(k.partition(": ")[0] for k in asker.seen.elements() if ": " in k)
    assert set(failed) >= {"breaks", "broken sql", "slow", "short"}, asker.seen
    assert len(service.queries.in_flight) == 0


@pytest.mark.proves("D9", "D10", "D17", "B15")
def test_tenants_are_added_and_removed_while_others_query(service: Service) -> None:
    """A tenant that is added, filled and removed repeatedly is visible only to itself, and to no tenant afterwards."""
    asker = Asker(service, {t: token_of(service, t) for t in STAY})
    stop, wrong = threading.Event(), []

    def come_and_go() -> None:
        for n in range(2):
            guest, placement = ("fox", "tables") if n % 2 else ("gnu", "pooled")
            tenants.add(service.workspace, [guest], placement)
            token = token_of(service, guest)
            service.append("events", rows_of(guest, 5))
            body = service.call(token, "words")
            if asker._foreign(guest, body.decode()) or json.loads(body)["rows"] != 5:
                wrong.append(body)
            tenants.remove(service.workspace, guest, purge=True)
            for ask in (
                lambda t=token: service.call(t, "words"),
                lambda t=token: service.sql(t, "SELECT * FROM events"),
            ):  # type: ignore[misc]
                try:
                    wrong.append(ask())
                except RookeryError as exc:
                    if exc.code is not BAD_TOKEN:
                        wrong.append(exc)
        stop.set()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    seed = 100_000
    with ThreadPoolExecutor(3) as pool:
        while not stop.is_set() and thread.is_alive():
            list(pool.map(asker.ask, range(seed, seed + 12)))
            seed += 12
    thread.join()
    assert stop.is_set()
    assert wrong == []
    left = service.workspace.warehouse.query(
        "SELECT count() FROM main.events WHERE tenant IN ('fox', 'gnu') UNION ALL "
        "SELECT count() FROM main.counts WHERE tenant IN ('fox', 'gnu')"
    ).rows
    assert left == [(0,), (0,)]


@pytest.mark.proves("D8", "D10")
def test_a_token_without_a_tenant_sees_nothing(service: Service) -> None:
    without_tenant = service.token("PIPES:READ:words", "PIPES:READ:counted", "DATASOURCES:READ:events")
    for ask in (
        lambda: service.call(without_tenant, "words"),
        lambda: service.call(without_tenant, "counted"),
        lambda: service.sql(without_tenant, "SELECT count() FROM events"),
    ):
        with pytest.raises(RookeryError) as refused:
            ask()
        assert refused.value.code is NO_TENANT
    claims = authorize.authenticate(service.workspace, token_of(service, "ant"))
    with pytest.raises(RookeryError) as other:
        service.queries.endpoint(QueryRequest(claims, impersonated_tenant="bee"), "words")
    assert other.value.code.status == 403


@pytest.mark.guard
@pytest.mark.parametrize(
    "text", ["SELECT 'guess' AS w FROM words", "SELECT count() FROM events WHERE word = 'guess'"]
)
def test_the_work_for_a_text_does_not_show_whether_another_tenant_has_sent_it(
    service: Service, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = {t: token_of(service, t) for t in ("ant", "cat")}
    parsed: list[str] = []
    run = Handle.rows

    def counted(self: Handle, sql: str, *more: Any) -> Rows:
        parsed.append(sql)
        return run(self, sql, *more)

    def work(tenant: str, guess: str) -> int:
        parsed.clear()
        service.sql(tokens[tenant], text.replace("guess", guess))
        return len(parsed)

    monkeypatch.setattr(Handle, "rows", counted)
    fresh = work("ant", "a new word")
    assert fresh == work("cat", "a word of cat") == work("ant", "a word of cat")
    assert work("ant", "a word of cat") < fresh, "a tenant's own texts are remembered"


@pytest.mark.guard
def test_the_form_of_a_document_does_not_show_how_large_the_result_of_another_tenant_is(service: Service) -> None:
    text = "SELECT word, n.number AS n FROM events CROSS JOIN numbers(1000) AS n WHERE word LIKE 'cat-%'"

    def document(tenant: str) -> bytes:
        return service.sql(token_of(service, tenant), text).split(b'"statistics"')[0]

    before = document("ant")
    assert json.loads(service.sql(token_of(service, "cat"), text))["rows"] > MAX_BUFFERED_ROWS
    assert document("ant") == before
