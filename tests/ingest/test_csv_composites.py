"""Lists, maps and tuples in CSV are stored as they are written, or go to quarantine. Nothing is read differently."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from engine.warehouse.port import Input
from tests.support.in_process import Rookery, open_rookery

Random = random.Random
UUID = "61f0c404-5cb3-11e7-907b-a6006ad3dba0"
CASES: Mapping[str, Mapping[str, Any]] = {
    "Array(String)": {
        "[]": [],
        "['a', '' ,'it''s','it\\'s','a,b','a]',\"a\"b\"]": None,
        "[ 'a' , '' ,'it''s','it\\'s','a\"b','a,b','a]','\\n\\x41\\\\']": [
            *["a", "", "it's", "it's", 'a"b', "a,b", "a]", "\nA\\"],
        ],
        "['a\nb','NULL','ä']": ["a\nb", "NULL", "ä"],
        **dict.fromkeys(["['a',]", "[,]", "['a',,'b']", "[a]", "['a'b]", "['a' 'b']", "[1]", "[NULL]", '["a"]']),
        "['\\x41\\\\d\\/\\0','\\\\N']": ["A\\d/\0", "\\N"],
        **dict.fromkeys(["['a\\x','b']", "['\\xZZ']", "['\\N']", "['\\d']", "['C:\\\n']", "['\\u00e9']"]),
        **dict.fromkeys(["['a'] x", "['a'],", "[]]", "['a'", "a", "'a'", "()", "{}", "['a']['b']", "[['a']]"]),
    },
    "Array(Int32)": {
        "[1, -2,+3,007]": [1, -2, 3, 7],
        "['1']": [1],
        **dict.fromkeys(
            [
                "[\\x31]",
                "[1\\x30]",
                "[1,,2]",
                "[,]",
                "[1,]",
                "[,1]",
                "[1]x",
                "[1.5]",
                "[99999999999]",
                "[null]",
                "['']",
                "1",
            ]
        ),
    },
    "Array(Nullable(Int32))": {
        "[1,NULL,null]": [1, None, None],
        **dict.fromkeys(["[1,,2]", "['NULL']", "[\\N]", "[,]"]),
    },
    "Array(Nullable(String))": {"['a',NULL,'','NULL']": ["a", None, "", "NULL"], "[,]": None, "[\\N]": None},
    "Array(Float64)": {"[1.5,.5,1e3,-0.25]": [1.5, 0.5, 1000, -0.25], "[1e400]": None, "[1.5.5]": None, "[,]": None},
    "Array(Bool)": {"[true,FALSE,1,0]": [True, False, True, False], "[2]": None, "[yes]": None, "[,]": None},
    "Array(Date)": {"['2026-01-02']": ["2026-01-02"], "['2026-02-31']": None, "[,]": None},
    "Array(DateTime('UTC'))": {
        "['2026-01-02 03:04:05',0]": ["2026-01-02 03:04:05", "1970-01-01 00:00:00"],
        **dict.fromkeys(["['2026-02-30 03:04:05']", "['2026-01-01 25:00:00']", "['2200-01-01 00:00:00']", "['']"]),
    },
    "Array(Time)": {"['10:20:30',5]": ["10:20:30", "00:00:05"], "[1,,2]": None, "['10:61:00']": None, "[1]x": None},
    "Array(Point)": {"[(1,2.5)]": [[1, 2.5]], "[(1,2),]": None, "[(1e400,2)]": None, "[(1,)]": None},
    "Array(UUID)": {f"['{UUID}']": [UUID], "['']": None, "['x']": None},
    "Array(IPv4)": {"['1.2.3.4']": ["1.2.3.4"], "['1.2.3']": None, "[,]": None},
    "Array(IPv6)": {"['::1']": ["::1"], "['']": None},
    "Array(Enum8('a' = 1, '' = 2, 'it''s' = 3))": {"['a','','it''s',1]": ["a", "", "it's", "a"], "['b']": None},
    "Array(Decimal(9, 2))": {"[1.25,'-3']": ["1.25", "-3"], "[1.2.3]": None, "[,]": None, "[12345678.9]": None},
    "Array(FixedString(2))": {"['ab']": ["ab"], "['abc']": None, "[ab]": None},
    "Array(Int128)": {f"[{2**127 - 1},{-(2**127)}]": [2**127 - 1, -(2**127)], f"[{2**127}]": None},
    "Array(UInt256)": {f"[{2**256 - 1}]": [2**256 - 1], f"[{2**256}]": None, "[-1]": None},
    "Array(Array(Int8))": {"[[1],[],[2,3]]": [[1], [], [2, 3]], **dict.fromkeys(["[[1],,[2]]", "[[300]]", "[1]"])},
    "Map(String, Int32)": {
        "{}": {},
        "{'a':1 , 'it''s' : -2,'x:y,}':3,'':4}": {"a": 1, "it's": -2, "x:y,}": 3, "": 4},
        **dict.fromkeys(["{'a':}", "{'a':1,}", "{,}", "{'a'}", "{a:1}", '{"a":1}', "{'a':1}}", "{'a':null}", "[]"]),
    },
    "Map(Int32, Nullable(String))": {"{1:'a',2:NULL}": {"1": "a", "2": None}, "{:'a'}": None, "{1:}": None},
    "Map(String, Array(Int8))": {
        "{'a':[1,2],'b':[]}": {"a": [1, 2], "b": []},
        "{'a':[1,,2]}": None,
        "{'a':[300]}": None,
    },
    "Map(String, Map(String, Date))": {
        "{'a:{':{'}':'2026-01-02'},'b':{}}": {"a:{": {"}": "2026-01-02"}, "b": {}},
        **dict.fromkeys(["{'a':{'b':'2026-02-31'}}", "{'a':{'b':}}"]),
    },
    "Tuple(Int32, String)": {
        "(1,'a')": [1, "a"],
        "( 2 , '(,)' )": [2, "(,)"],
        **dict.fromkeys(["(1,)", "(,'a')", "(1,a)", "(1,'a','b')", "(1,'a')x", "1,a", "(NULL,'a')", "(1)"]),
    },
    f"Tuple({', '.join(['Nullable(Date)'] * 12)}, Map(String, Tuple(Map(Int8, Date), Int8)))": {
        "(" + "'2026-01-02',NULL," * 6 + "{'a':({1:'2026-01-02'},2)})": [
            *["2026-01-02", None] * 6,
            {"a": [{"1": "2026-01-02"}, 2]},
        ],
        "(" + "'2026-02-31'," * 12 + "{})": None,
    },
    "Tuple(Int32)": {"(1)": [1], "(1,)": [1], "()": None, "(1,2)": None},
    "Array(Tuple(String, Map(String, Nullable(Int8))))": {
        "[('a',{'(':1}),('',{}),('[',{'b':NULL})]": [["a", {"(": 1}], ["", {}], ["[", {"b": None}]],
        **dict.fromkeys(["[('a',{}),]", "[('a',)]", "[(,{})]", "[('a',{'b':})]"]),
    },
}
TYPES = [*CASES]


@pytest.fixture(scope="module")
def rookery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    columns = [f"  - {{name: c{n}, type: {json.dumps(type)}}}\n" for n, type in enumerate(TYPES)]
    more = (
        "  - {name: listed, type: Array(String), default: \"['it''s', '']\"}\n"
        '  - {name: counted, type: UInt8, default: "length(c0) + c1[1]"}\n'
    )
    text = f"columns:\n  - {{name: id, type: UInt32}}\n{''.join(columns)}{more}engine: {{sorting_key: [id]}}\n"
    required = "columns: [{name: r, type: Array(Int8), required: true}]\nengine: {sorting_key: []}\n"
    with open_rookery(tmp_path_factory.mktemp("composites")) as opened:
        opened.push({"datasources/rows.yaml": text, "datasources/strict.yaml": required})
        yield opened


def text(rng: Random) -> str:
    return "".join(rng.choices("ab'\\\"[](){},: \nä", k=rng.randint(0, 4)))


def written(value: Any, rng: Random) -> str:
    """A value as SQL, with random spaces and escapes."""
    space = " " * rng.randint(0, 1)
    if value is None:
        return rng.choice(["NULL", "null"])
    if isinstance(value, str):
        quote = rng.choice(["''", "\\'"])
        return "'" + value.replace("\\", "\\\\").replace("'", quote).replace("\n", rng.choice(["\n", "\\n"])) + "'"
    if isinstance(value, list):
        return f"[{space}" + f"{space},".join(written(v, rng) for v in value) + "]"
    if isinstance(value, tuple):
        return f"({space}" + f",{space}".join(written(v, rng) for v in value) + f"{space})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{written(k, rng)}{space}:{written(v, rng)}" for k, v in value.items()) + "}"
    return str(value)


RANDOM: Mapping[str, Callable[[Random], Any]] = {
    "Array(Nullable(String))": lambda rng: [rng.choice([text(rng), None]) for _ in range(rng.randint(0, 4))],
    "Map(String, Array(Int8))": lambda rng: {
        text(rng): [rng.randint(-128, 127) for _ in range(rng.randint(0, 2))] for _ in range(rng.randint(0, 3))
    },
    "Array(Tuple(String, Map(String, Nullable(Int8))))": lambda rng: [
        (text(rng), {text(rng): rng.choice([None, 1]) for _ in range(rng.randint(0, 2))})
        for _ in range(rng.randint(0, 3))
    ],
}


def samples(type: str) -> list[tuple[str, Any]]:
    """Random values of a type, as they are written and as JSON."""
    rng = Random(f"composites {type}")
    values = [RANDOM[type](rng) for _ in range(100)]
    return [(written(v, rng), json.loads(json.dumps(v))) for v in values]


SENT: Mapping[str, list[tuple[str, Any]]] = {
    t: [*CASES[t].items(), *(samples(t) if t in RANDOM else [])] for t in TYPES
}


@pytest.fixture(scope="module")
def stored(rookery: Rookery) -> Mapping[str, list[Any]]:
    """What is stored for the spellings of each type, as JSON; None for those in quarantine. All are in one file."""
    sent = [(n, spelling) for n, type in enumerate(TYPES) for spelling, _ in SENT[type]]
    file = io.StringIO(newline="")
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(["id", *(f"c{n}" for n in range(len(TYPES)))])
    lines.writerows([id, *[""] * n, text, *[""] * (len(TYPES) - n - 1)] for id, (n, text) in enumerate(sent))
    outcome = rookery.gateway.append("rows", file.getvalue().encode(), Input.CSV).result(60)
    values = ", ".join(f"toJSONString(c{n})" for n in range(len(TYPES)))
    rows = {id: json.loads(found[sent[id][0]]) for id, *found in rookery.rows(f"SELECT id, {values} FROM main.rows")}
    bad = rookery.rows("SELECT c__error_column[1], count() FROM main.rows_quarantine GROUP BY 1")
    wrong = {f"c{TYPES.index(t)}": n for t in TYPES if (n := [v for _, v in SENT[t]].count(None))}
    assert dict(bad) == wrong and outcome.rows == len(rows) == len(sent) - sum(wrong.values())
    rookery.run("TRUNCATE TABLE main.rows")
    return {t: [rows.get(id) for id, (n, _) in enumerate(sent) if TYPES[n] == t] for t in TYPES}


@pytest.mark.parametrize("type", TYPES)
def test_a_value_is_stored_as_it_is_written_or_quarantined(stored: Mapping[str, list[Any]], type: str) -> None:
    found = stored[type]
    if "Decimal" in type:
        found = [value and [str(v) for v in value] for value in found]
    assert [*zip((spelling for spelling, _ in SENT[type]), found, strict=True)] == SENT[type]


def test_defaults_read_what_is_stored(rookery: Rookery) -> None:
    """Also the default of a list, and a list that the file lacks."""
    mapped = f"c{TYPES.index('Map(String, Int32)')}"
    for body in (b"id,c0,c1,listed\n1,\"['a','b']\",[5],\n", b"id,c0,c1\n1,\"['a','b']\",[5]\n"):
        assert rookery.gateway.append("rows", body, Input.CSV).result(60).rows == 1
        assert rookery.rows(f"SELECT counted, listed, c2, {mapped} FROM main.rows") == [(7, ["it's", ""], [], {})]
        rookery.run("TRUNCATE TABLE main.rows")


def test_a_required_list_is_not_empty(rookery: Rookery) -> None:
    body = b'r,x\n[1],\n[ ],\n,\n"",\n[1,],\n'
    outcome = rookery.gateway.append("strict", body, Input.CSV).result(60)
    assert (outcome.rows, outcome.quarantined) == (1, 4)


def test_the_reason_names_what_is_wrong_with_a_list(rookery: Rookery) -> None:
    lists, maps = TYPES.index("Array(Int32)"), TYPES.index("Map(String, Int32)")
    cells = {
        "1,2": (lists, "brackets"), "[1,": (lists, "brackets"), "'a':1": (maps, "brackets"),
        "[1,]": (lists, "empty element"), "[ ,1]": (lists, "empty element"), "{'a\\',':1,}": (maps, "empty element"),
        "[',]']": (lists, "does not fit Array(Int32)"),
    }  # fmt: skip
    for text, (column, word) in cells.items():
        body = f'id,c{column}\n1,"{text}"\n'.encode()
        outcome = rookery.gateway.append("rows", body, Input.CSV).result(60)
        assert outcome.first_bad_row is not None, text
        (reason,) = outcome.first_bad_row.reasons
        assert word in reason, reason
        assert word == "empty element" or "empty element" not in reason, reason
