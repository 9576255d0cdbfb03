"""Which ids a tenant can have, and their one canonical text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BAD_TENANT_ID, TENANT_COLUMN, RookeryError
from engine.tenant_ids import canonical_tenant

UUID = "0b0e7c5a-1111-4222-8333-0123456789ab"


def _id(value: object) -> str:
    return "long" if isinstance(value, int) and value.bit_length() > 99 else ascii(value)[:25]


@pytest.mark.parametrize(
    ("type", "raw", "text"),
    [
        ("String", "acme", "acme"),
        ("LowCardinality(String)", "01", "01"),
        ("String", "Zoë & Söhne", "Zoë & Söhne"),
        ("String", "a" * 256, "a" * 256),
        ("UInt64", "18446744073709551615", "18446744073709551615"),
        ("UInt64", 7, "7"),
        ("Int8", "-128", "-128"),
        ("Int32", 0, "0"),
        ("UUID", UUID, UUID),
    ],
)
def test_valid_ids_have_a_canonical_text(type: str, raw: object, text: str) -> None:
    assert canonical_tenant(type, raw) == text


@pytest.mark.parametrize(
    ("type", "raw"),
    [
        *[
            ("UInt32", raw)
            for raw in ("01", "+1", "-0", " 1", "1 ", "1.0", "", "-1", "4294967296", "١", "1\n", "0x1")
        ],
        *[("UInt32", raw) for raw in (True, False, None, 1.0, 4294967296, -1, 10**5000, b"1", [1])],
        *[
            ("String", raw)
            for raw in ("", None, True, 7, "a" * 257, "é" * 129, "a\0", "a\n", "\x7f", "\x85", "\ud800")
        ],
        *[("String", raw) for raw in ("e\u0301", "a\u2028b", b"a", ["a"])],
        *[("UUID", raw) for raw in (UUID.upper(), "{" + UUID + "}", UUID[:-1], "", None)],
        ("LowCardinality(String)", ""),
    ],
    ids=_id,
)
def test_invalid_ids_are_refused(type: str, raw: object) -> None:
    with pytest.raises(RookeryError) as caught:
        canonical_tenant(type, raw)
    assert caught.value.code is BAD_TENANT_ID
    assert caught.value.hint
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("type", ["Nullable(String)", "Float64", "Date", "FixedString(4)", "Array(String)", ""])
def test_types_that_cannot_be_tenant_columns(type: str) -> None:
    with pytest.raises(RookeryError) as caught:
        canonical_tenant(type, "1")
    assert caught.value.code is TENANT_COLUMN


@given(st.sampled_from(["UInt8", "Int64", "Int256"]), st.integers(-(2**260), 2**260) | st.integers(-300, 300))
def test_integers_have_one_canonical_text(type: str, number: int) -> None:
    try:
        text = canonical_tenant(type, number)
    except RookeryError:
        with pytest.raises(RookeryError):
            canonical_tenant(type, str(number))
    else:
        assert text == str(number) == canonical_tenant(type, text)
