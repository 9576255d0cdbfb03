"""Values of every type, as sent and as stored, and helpers that compare them."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.warehouse.port import Input
from tests.support.in_process import Rookery

CASES: dict[str, dict[str, str | None]] = {
    "Date": {
        '"2026-02-28"': "2026-02-28",
        '"20260228"': "2026-02-28",
        '"2026-2-3"': "2026-02-03",
        '"2149-06-06"': "2149-06-06",
        "null": "1970-01-01",
        **dict.fromkeys(['"2026-02-31"', '"2026-02-29"', '"2026-13-01"', '"2150-01-01"', '"1969-12-31"', '""']),
        **dict.fromkeys(["20000", "70000", "1763700000000", '"2026-02-28 10:00:00"']),
    },
    "Date32": {'"1900-01-01"': "1900-01-01", '"2299-12-31"': "2299-12-31", '"2026-04-31"': None, "-5": None},
    "Nullable(Date)": {'"2026-02-03"': "2026-02-03", "null": "NULL", '"2026-02-31"': None},
    "DateTime('UTC')": {
        "0": "1970-01-01 00:00:00",
        "1234567": "1970-01-15 06:56:07",
        "999999999": "2001-09-09 01:46:39",
        "1763700000": "2025-11-21 04:40:00",
        "1763700000123": "2025-11-21 04:40:00",
        "1763700000123456": "2025-11-21 04:40:00",
        "1763700000123456789": "2025-11-21 04:40:00",
        **dict.fromkeys(["17637000001234", "176370000012345", "17637000001234567", "176370000012345678"]),
        '"2026-11-21T10:00:00Z"': "2026-11-21 10:00:00",
        '"2026-11-21T10:00:00.75+02:00"': "2026-11-21 08:00:00",
        '"2026-11-21 10:00"': "2026-11-21 10:00:00",
        '"2026-11-21"': "2026-11-21 00:00:00",
        '"2106-02-07 06:28:15"': "2106-02-07 06:28:15",
        **dict.fromkeys(
            ['"2026-02-31 10:00:00"', '"2107-01-01 00:00:00"', "-5", "12345678", '"2026-00-10 00:00:00"']
        ),
        **dict.fromkeys(
            ['"2026-01-01 25:00:00"', '"2026-01-01T12:60:00Z"', '"2026-01-01T12:00:75Z"', '"10:00"', '""']
        ),
        **dict.fromkeys(
            ['"01/02/2026"', '"26-01-02"', '"12.31"', '"2026-01-01T10:00:00+99:00"', '"0000-00-00 00:00:00"']
        ),
    },
    "DateTime64(3, 'UTC')": {
        "1763700000": "2025-11-21 04:40:00.000",
        "1763700000.123": "2025-11-21 04:40:00.123",
        "1763700000123": "2025-11-21 04:40:00.123",
        '"1763700000123"': "2025-11-21 04:40:00.123",
        "1763700000123456": "2025-11-21 04:40:00.123",
        '"1763700000123456789"': "2025-11-21 04:40:00.123",
        '"2026-11-21T10:00:00.123Z"': "2026-11-21 10:00:00.123",
        '"9999-12-31 23:59:59"': "9999-12-31 23:59:59.000",
        **dict.fromkeys(["253402300800", "-99999999999", '"2026-02-31 10:00:00"', '"2026-01-01 10:61:00"']),
    },
    "DateTime64(9, 'UTC')": {
        '"2026-11-21T10:00:00.123456789Z"': "2026-11-21 10:00:00.123456789",
        "1763700000000": "2025-11-21 04:40:00.000000000",
        "1763700000123456": "2025-11-21 04:40:00.123456000",
        "1763700000123456789": "2025-11-21 04:40:00.123456789",
        '"1763700000123456789"': "2025-11-21 04:40:00.123456789",
        "9223372036854775807": "2262-04-11 23:47:16.854775807",
        **dict.fromkeys(["9999999999999999", "9999999999999999999", '"1763700000123456.5"']),
        '"2270-01-01 00:00:00"': None,
    },
    "DateTime64(6, 'UTC')": {
        "1763700000123456": "2025-11-21 04:40:00.123456",
        "1763700000123456789": "2025-11-21 04:40:00.123456",
        "1763700000123": "2025-11-21 04:40:00.123000",
        "1763700000": "2025-11-21 04:40:00.000000",
    },
    "Nullable(DateTime64(3, 'UTC'))": {"null": "NULL", "1763700000": "2025-11-21 04:40:00.000", '"10:00"': None},
    "Time": {
        '"10:20:30"': "10:20:30",
        '"20:30"': "00:20:30",
        '"-999:59:59"': "-999:59:59",
        "3600": "01:00:00",
        "-5": "-00:00:05",
        "null": "00:00:00",
        **dict.fromkeys(['"10:61:00"', '"10:20:75"', '"1000:00:00"', "3600000", '"102030"', '"10:20:30.5"', '""']),
    },
    "Nullable(Time64(3))": {
        '"10:20:30.1239"': "10:20:30.123",
        '"-00:00:00.5"': "-00:00:00.500",
        "null": "NULL",
        **dict.fromkeys(['"10:61:00"', "3600", '"10:20:30x"', "true"]),
    },
    "UUID": {
        '"61f0c404-5cb3-11e7-907b-a6006ad3dba0"': "61f0c404-5cb3-11e7-907b-a6006ad3dba0",
        **dict.fromkeys(['"x"', '""', '"61f0c404-5cb3-11e7-907b-a6006ad3dbzz"']),
    },
    "Enum8('a' = 1, 'it''s' = 2)": {
        '"a"': "a",
        '"it\'s"': "it's",
        "2": "it's",
        "null": "a",
        **dict.fromkeys(['"c"', "257", "-255", '""']),
    },
    "Nullable(Enum8('a' = 1))": {"null": "NULL", '"a"': "a", "257": None},
    "Float32": {"1.5": "1.5", "3.4028235e38": "3.4028235e38", "1e39": None, "-1e39": None, "1e400": None},
    "Float64": {"1e308": "1e308", "-0.5": "-0.5", "1e400": None},
    "Nullable(Float64)": {"null": "NULL", "0.5": "0.5", "1e400": None},
    "Decimal(9, 2)": {
        "19.99": "19.99",
        "19.990000000000002": "19.99",
        "1.239": "1.24",
        '"1.235"': "1.24",
        "-1.235": "-1.24",
        "1e-5": "0",
        "9999999.99": "9999999.99",
        **dict.fromkeys(["9999999.995", "12345678.9", "1e10"]),
    },
    "Decimal(76, 2)": {'"1.25"': "1.25"},
    "Decimal(38, 10)": {'"12345678901234567890.12345678905"': "12345678901234567890.1234567891"},
    "Nullable(Decimal(9, 2))": {"null": "NULL", "0.285": "0.29"},
    "UInt8": {"255": "255", "256": None, "-1": None, '""': None, '"7"': "7"},
    "UInt256": {str(2**256 - 1): str(2**256 - 1), str(2**256): None},
    "INT": {"2147483647": "2147483647", "2147483648": None},
    "Array(Date)": {
        '["2026-02-28", "2026-03-01"]': "['2026-02-28','2026-03-01']",
        "[]": "[]",
        '["2026-02-31"]': None,
    },
    "Array(Nullable(Int8))": {"[30, null]": "[30,NULL]", "[300, null]": None},
    "Array(Array(UInt8))": {"[[3], [4, 5]]": "[[3],[4,5]]", "[[3], [300]]": None},
    "Array(Float32)": {"[1.5]": "[1.5]", "[1e39]": None},
    "Array(Decimal(9, 2))": {"[0.29, 1.239]": "[0.29,1.24]"},
    "Array(DateTime64(3, 'UTC'))": {
        '["2026-11-21 10:00:00", 1763700000]': "['2026-11-21 10:00:00.000','2025-11-21 04:40:00.000']",
        '["10:00"]': None,
    },
    "Array(Nullable(DateTime64(3, 'UTC')))": {'["2026-11-21 10:00:00", null]': "['2026-11-21 10:00:00.000',NULL]"},
    "Array(UInt8)": {"[1, 2]": "[1,2]", "[]": "[]", "[1, null]": None},
    "Array(String)": {'["a", ""]': "['a','']", '["a", null]': None},
    "Array(Enum8('a' = 1))": {'["a"]': "['a']", "[null]": None, '["b"]': None},
    "String": {'"x"': "x", "5.10": "5.10", '{"a": [1]}': '{"a": [1]}'},
    "JSON": {'{"day": "2026-02-31", "n": 300}': '{"day":"2026-02-31","n":300}'},
}
WHOLE: dict[str, dict[str, str | None]] = {
    "Map(String, Time)": {'{"a": "20:30"}': "{'a':'00:20:30'}", '{"a": "10:61:00"}': None},
    "Point": {"[1.5, 2]": "(1.5,2)", "[1e400, 2]": None, "[null, 2]": None},
    "Polygon": {"[[[1.5, 2]]]": "[[(1.5,2)]]", "[[[1e400, 2]]]": None, "[[null]]": None},
    "Map(String, UInt8)": {'{"a": 3}': "{'a':3}", '{"a": 300}': None, '{"a": null}': None},
    "Map(String, Date)": {'{"a": "2026-02-28"}': "{'a':'2026-02-28'}", '{"a": "2026-02-31"}': None},
    "Map(UInt8, String)": {'{"3": "x"}': "{3:'x'}", '{"300": "x"}': None},
    "Map(String, Array(UInt8))": {'{"a": [1, 30]}': "{'a':[1,30]}", '{"a": [1, 300]}': None},
    "Tuple(a UInt8, b String)": {'{"a": 30, "b": "x"}': "(30,'x')", '{"a": 300, "b": "x"}': None},
    "Tuple(a Date, b Decimal(9, 2))": {
        '{"a": "2026-02-28", "b": 1.239}': "('2026-02-28',1.24)",
        '{"a": "2026-02-31", "b": 1}': None,
    },
    "Tuple(TINYINT, Array(Tuple(a Nullable(Date), b Int8)))": {
        '[3, [{"a": null, "b": 4}, {"a": "2026-02-28", "b": 4}]]': "(3,[(NULL,4),('2026-02-28',4)])",
        '[3, [{"a": "2026-02-31", "b": 4}]]': None,
        '[3, [{"a": "2026-02-28", "b": 400}]]': None,
    },
}
DEEPER: dict[tuple[str, str], str | None] = {
    # A float would lose digits that text keeps.
    ("UInt256", str(2**256 - 1)): str(2**256 - 1),
}
"""Reasons that differ for values deeper in an event."""


@dataclass
class SentValues:
    """Values for the columns of a datasource, one per row, with their expected stored text (None: quarantine)."""

    rows: list[tuple[str, str, str | None]] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)

    def take(self, cases: dict[str, dict[str, str | None]]) -> SentValues:
        for kind, values in cases.items():
            self.columns[kind] = f"c{len(self.columns)}"
            self.rows += [(kind, text, stored) for text, stored in values.items()]
        return self

    def datasource(self, path: str) -> str:
        columns = "".join(
            f'  - {{name: {name}, type: "{kind}"{path.format(name) and f", json: {path.format(name)}"}}}\n'
            for kind, name in self.columns.items()
        )
        return f"columns:\n  - {{name: id, type: UInt32}}\n{columns}engine: {{sorting_key: [id]}}\n"


def stored_values(
    rookery: Rookery, datasource: str, sent: SentValues, start: int
) -> dict[tuple[str, str], str | None]:
    """The stored text of each value; None for those in quarantine, whose column must be the named one."""
    bad = {
        int(row): list(columns)
        for row, columns in rookery.rows(f"SELECT c__row, c__error_column FROM main.{datasource}_quarantine")
    }
    rookery.run(f"TRUNCATE TABLE main.{datasource}_quarantine")
    names = [*sent.columns.values()]
    shown = ", ".join(f"ifNull(toString({name}), 'NULL')" for name in names)
    rows = rookery.rows(
        f"SELECT id, {shown} FROM main.{datasource} WHERE id >= {start} AND id < {start + len(sent.rows)}"
    )
    stored = {int(row): dict(zip(names, map(str, shown), strict=True)) for row, *shown in rows}
    assert len(stored) == len(rows), "a row is stored twice"
    values: dict[tuple[str, str], str | None] = {}
    for number, (kind, text, _) in enumerate(sent.rows):
        column = sent.columns[kind]
        found = stored.get(start + number)
        assert (found is not None) + (number in bad) == 1, (kind, text)
        assert found or bad[number] == [column], (kind, text)
        values[kind, text] = found[column] if found else None
    return values


def append(rookery: Rookery, datasource: str, body: bytes, format: Input) -> int:
    outcome = rookery.gateway.append(datasource, body, format).result(60)
    return outcome.rows
