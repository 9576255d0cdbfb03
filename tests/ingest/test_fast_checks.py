"""The fast checks accept only values that the full checks accept, and convert them in the same way."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from itertools import product
from zoneinfo import ZoneInfo

import pytest

from engine.errors import RookeryError
from engine.ingest.values.fast_path import fast_checks_of, fast_tenant_check
from engine.ingest.values.staging import tenant_check
from engine.ingest.values.wide_types import wide_type_of
from engine.schema import literal
from engine.tenant_ids import integer_bounds
from engine.warehouse.embedded import in_this_process
from engine.warehouse.type_names import parse_type
from tests.support.soak import soak_rounds, soaking

MOMENTS = [
    f"{day}{sep}{time}{zone}"
    for day, sep, time, zone in product(
        [
            "2026-01-31",
            "2024-02-29",
            "2026-02-29",
            "2026-04-31",
            "2026-00-10",
            "2026-01-00",
            "2026-13-01",
            "1999-12-31",
        ],
        [" ", "T", "t", ""],
        ["00:00:00", "23:59:59", "24:00:00", "29:10:10", "2312:00:00", ":00:00", "12:60:00", "12:00:60", "12:00"],
        ["", "Z", ".5", ".999999999Z", "+02:00", " ", "."],
    )
]
DAYS = [
    f"{y}-{m:02}-{d:02}" for y in (1970, 2024, 2099, 2100) for m in range(14) for d in (0, 1, 9, 28, 29, 30, 31, 32)
]
DECIMALS = ["0", "-0", "1", "-1.5", "+1", "1e3", ".5", "5.", "1.005", "00012", "9999999.99", "99999999.99", "1" * 40]
UUIDS = [
    "61f0c404-5cb3-11e7-907b-a6006ad3dba0",
    "61F0C404-5CB3-11E7-907B-A6006AD3DBA0",
    "61f0c4045cb311e7907ba6006ad3dba0",
]
ODD = ["", " ", "0", "-", "x", "null", "NaN", "inf", "2026", "20260101", "1763700000", "\x00", "é", "12:00"]
SAMPLES = {
    "Date": ("2026-02-28", DAYS),
    "Date32": ("2026-02-28", DAYS),
    "DateTime('UTC')": ("2026-02-28 10:20:30", MOMENTS),
    "DateTime('Europe/Berlin')": ("2026-03-29 03:30:00", MOMENTS),
    "DateTime64(3, 'UTC')": ("2026-02-28T10:20:30.123Z", MOMENTS),
    "DateTime64(9, 'UTC')": ("2026-02-28T10:20:30.123456789Z", MOMENTS),
    "LowCardinality(UUID)": (UUIDS[0], UUIDS),
    "UUID": (UUIDS[0], UUIDS),
    "Decimal(9, 2)": ("1234.56", DECIMALS),
    "Decimal(18, 0)": ("1234", DECIMALS),
    "Decimal(38, 10)": ("1234.5678901234", DECIMALS),
    "Decimal(76, 38)": ("-1234.5678901234", DECIMALS),
    "Decimal(76, 75)": ("1.5", DECIMALS),
}


def mutated(text: str, count: int, chance: random.Random) -> list[str]:
    """A text with one to three characters changed, removed or inserted."""
    mutations = []
    for _ in range(count):
        letters = list(text)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(letters) + 1)
            letters[at : at + chance.randint(0, 1)] = chance.choice(["", *"0123456789-:. TZ+abe"])
        mutations.append("".join(letters))
    return mutations


def values_of(
    expression: str, where: str, texts: Sequence[str], kind: str = "String", likely: Collection[int] | None = None
) -> dict[int, str]:
    """The results of an expression over `v` for the texts that meet a condition and on which it does not throw.

    All but the `likely` ones (None: all are) are tried one by one.
    """

    def asked(rows: Sequence[tuple[int, str]], value: str) -> dict[int, str]:
        given = ", ".join(f"({n}, {literal(text)})" for n, text in rows)
        table = f"(SELECT c1 AS n, CAST(c2 AS {kind}) AS v FROM VALUES({given}))"
        result_rows = in_this_process().query(f"SELECT n, toString({value}) FROM {table} WHERE {where}").rows
        return {int(n): str(made) for n, made in result_rows}

    def through(rows: Sequence[tuple[int, str]]) -> dict[int, str]:
        try:
            return asked(rows, expression)
        except RookeryError:
            half = len(rows) // 2
            return {**through(rows[:half]), **through(rows[half:])} if half else {}

    meeting = asked(list(enumerate(texts)), "0").keys()
    rows = [(n, texts[n]) for n in meeting if likely is None or n in likely]
    result_rows = through(rows) if rows else {}
    for n in meeting - {n for n, _ in rows}:
        result_rows |= through([(n, texts[n])])
    return result_rows


@pytest.mark.soak
@pytest.mark.parametrize("kind", SAMPLES)
def test_fast_checks_accept_no_text_that_full_checks_refuse(kind: str) -> None:
    usual_text, samples = SAMPLES[kind]
    chance = random.Random(7)
    type = parse_type(kind)
    wide, fast = wide_type_of(type), fast_checks_of(type, "String")
    assert wide.staging_type == "String" and wide.check and wide.convert and fast and fast.convert
    # If a function that throws checks the text, each refused text needs separate queries.
    mutations = mutated(usual_text, soak_rounds(100) if fast.check else soak_rounds(30), chance)
    texts = [usual_text, *(samples if soaking() else samples[::3]), *ODD, *mutations]

    long = values_of(f"CAST({wide.convert('v')} AS {kind})", wide.check("v"), texts)
    condition = fast.check("v") if fast.check else "1"
    short = values_of(f"CAST({fast.convert('v')} AS {kind})", condition, texts, likely=long.keys())

    assert 0 in short
    assert {texts[n]: value for n, value in short.items()} == {texts[n]: long.get(n) for n in short}


@pytest.mark.parametrize("kind", ["Int8", "UInt8", "Int16", "UInt32", "Int64", "UInt64"])
def test_fast_checks_accept_no_number_that_full_checks_refuse(kind: str) -> None:
    low, high = integer_bounds(kind) or (0, 0)
    texts = [str(edge + step) for edge in (low, 0, high, -(1 << 126), 1 << 126) for step in (-1, 0, 1)]
    type = parse_type(kind)
    wide, fast = wide_type_of(type), fast_checks_of(type, "Int128")
    assert wide.check and fast and fast.check is None and fast.convert

    short = values_of(fast.convert("v"), "1", texts, "Int128")

    assert short == values_of(f"CAST(v AS {kind})", wide.check("v"), texts, "Int128")
    assert len(short) == sum(low <= int(text) <= high for text in texts)


@pytest.mark.parametrize("kind", ["Float32", "Float64"])
def test_fast_checks_accept_no_float_that_full_checks_refuse(kind: str) -> None:
    texts = ["0", "-1.5", "3.4028235e38", "3.5e38", "1e308", "inf", "-inf", "nan"]
    wide, fast = wide_type_of(parse_type(kind)), fast_checks_of(parse_type(kind), "Float64")
    assert wide.check and fast and fast.check

    short = values_of("v", fast.check("v"), texts, "Float64")

    assert {0, 1, 2} <= short.keys() <= values_of("v", wide.check("v"), texts, "Float64").keys()


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["UInt8", "Int16", "UInt32", "Int64", "UInt64", "String"])
def test_fast_checks_accept_no_tenant_that_full_checks_refuse(kind: str) -> None:
    chance = random.Random(7)
    usual_text = "acme-1" if kind == "String" else "42"
    texts = [usual_text, "0", "00", "007", "-1", "+1", "1.0", " 1", "1 ", "256", "32768", "4294967295", "4294967296"]
    texts += [
        "9" * 18,
        "9" * 19,
        "9" * 20,
        "a" * 256,
        "a" * 257,
        "é",
        "e\u0301",
        "a\nb",
        "a\u2028b",
        "\x7f",
        "~",
        *ODD,
    ]
    texts += mutated(usual_text, soak_rounds(300), chance)
    check = fast_tenant_check(kind, "v")
    assert check

    short = values_of("v", check, texts, "Nullable(String)")

    assert 0 in short
    assert short.keys() <= values_of("v", tenant_check(kind, "v"), texts, "Nullable(String)").keys()


def _days_of_changes(zone: str) -> list[datetime]:
    """The days of 2018 on which clocks are set forward or back."""
    days = [datetime(2018, 1, 1) + timedelta(days=n) for n in range(365)]
    offsets = [day.replace(tzinfo=ZoneInfo(zone)).utcoffset() for day in days]
    return [day for day, before, after in zip(days, offsets, offsets[1:], strict=False) if before != after]


def _instant(local: datetime, zone: str) -> str | None:
    """Seconds since 1970 of a local time, the first one if it occurs twice; None if it is skipped."""
    moment = local.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    shown = moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    return str(int(moment.timestamp())) if shown == local else None


@pytest.mark.parametrize("form", ["DateTime('{}')", "DateTime64(3, '{}')"])
@pytest.mark.parametrize(
    "zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "America/Sao_Paulo"]
)
def test_local_times_that_clocks_skip_are_refused(zone: str, form: str) -> None:
    """The other times of these days mean what they say, and the first of two hours. In Brazil, midnight is skipped."""
    days = [day + timedelta(days=n) for day in _days_of_changes(zone) for n in (-1, 0, 1)]
    locals = [day + timedelta(minutes=15 * n) for day in days for n in range(96)]
    moments = [_instant(local, zone) for local in locals]
    expected = {n: moment for n, moment in enumerate(moments) if moment is not None}
    assert len(moments) - len(expected) in (2, 4, 8)
    type = parse_type(form.format(zone))
    wide = wide_type_of(type)
    fast = fast_checks_of(type, wide.staging_type)
    assert wide.check and wide.convert and fast and fast.check and fast.convert
    texts = [f"{local:%Y-%m-%d %H:%M:%S}" for local in locals]
    stored = "toUnixTimestamp({})".format
    assert values_of(stored(fast.convert("v")), fast.check("v"), texts) == expected
    for written in (
        texts,
        [f"{t:%Y/%m/%d}T{t.hour}:{t:%M}" for t in locals],
        [f"{t:%Y-%m-%d %H:%M:%S.5}" for t in locals],
        [f"{t:%Y-%m-%d %H:%M:%S,5}" for t in locals],
    ):
        assert values_of(stored(wide.convert("v")), wide.check("v"), written) == expected
    midnights = {n: moment for n, day in enumerate(days) if (moment := _instant(day, zone)) is not None}
    texts = [f"{day:%Y-%m-%d}" for day in days]
    assert values_of(stored(wide.convert("v")), wide.check("v"), texts) == midnights
    absolute = [f"{day:%Y-%m-%d} 02:30:00{offset}" for day in days for offset in ("Z", "+01:00", "-0300")]
    assert len(values_of("v", wide.check("v"), absolute)) == len(absolute)
