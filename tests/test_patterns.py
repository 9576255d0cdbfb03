"""Every regular expression of the code base takes time linear in its text.

Patterns are constants of their modules, and each is registered here with texts on which it is slowest, or with what
bounds its texts. They are matched in a child process that may use so much time of a processor and no more: linear
patterns use a small part of it, and one that is quadratic would need a thousand times as much.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.matching import FUNCTIONS, LENGTH

ROOT = Path(__file__).resolve().parents[1]
SHORTER = 50_000
PROCESSOR_SECONDS = 25
METHODS = ("search", "match", "fullmatch", "finditer", "findall", "sub", "split")

Worst = tuple[str, str, str]
"""A beginning, what is repeated, and an end."""

UNITS = (
    " ", "\n", ".", "a", "0", "_", "(", ")", "'", '"', "`", "\\'", '\\"', "\\`", "\\", "{", "[", "a ", "a.", "'a'", "''",
    ",", ", 1 ", "ey-", "p.", "(A)", "(AAAA)", ": ", "-", "=", "a_1_", " TO ", "{ a ",
)  # fmt: skip
"""Tried on every pattern."""

REGISTERED: dict[str, list[Worst]] = {
    "engine/warehouse/clauses.py:_QUOTED": [("", "\\'", ""), ("'", "\\'", ""), ('"', '\\"', "\\"), ("`", "``", "")],
    "engine/warehouse/clauses.py:_SIGN": [("", "\\'", ""), ("", "(", ""), (" ", "`a", "")],
    "engine/warehouse/clauses.py:_ESCAPED": [("", "\\", "")],
    "engine/warehouse/clauses.py:_TARGET": [(" TO ", "a.", ""), (" TO `", "\\` TO ", "")],
    "engine/warehouse/clauses.py:_CONSTRAINT": [("CONSTRAINT ", "a", " "), ("CONSTRAINT `", "\\`", "")],
    "engine/plan/alteration_groups.py:_WORD": [("", "a", "-")],
    "engine/compiler/expiry_check.py:_LONG_INTEGER": [("", "Nullable(", "x"), ("Int", "6", "")],
    "engine/compiler/expiry_check.py:_DATE_TYPE": [("", "Date", ""), ("", "Date(", "")],
    "engine/compiler/expiry_check.py:_TIME_TYPE": [("", "DateTime", ""), ("", "DateTime(", "")],
    "engine/compiler/ttl_overflow.py:DATE_OR_TIME": [("", "Nullable(", "x"), ("Date", "6", "")],
    "engine/control/doctor/comparison.py:_TIME": [],  # types of columns
    "engine/control/doctor/detached_parts.py:_PART": [],  # names of directories
    "engine/settings.py:_WEB_URL": [("https://", "a", " ")],
    "engine/web/documentation.py:_SECTION": [],  # the page of errors
    "engine/web/documentation.py:_LINK": [],  # the page of errors
    "engine/web/documentation.py:_CODE_LINK": [],  # the page of errors
    "engine/workspace/disk.py:_PART": [],  # names of directories
    "engine/warehouse/mutation_wake.py:_MUTATES": [("ALTER TABLE `", "a", ""), ("ALTER TABLE `a`.`", "a", "` ADD")],
    "engine/warehouse/embedded.py:_ATTACHES": [("ALTER TABLE `", "a", ""), ("ALTER TABLE `a`.`", "a", "` DETACH")],
    "engine/warehouse/errors.py:_PREFIX": [("", "Code: 1", ""), ("", "Code: 1. DB::Exception: ", "")],
    "engine/warehouse/errors.py:_NUMBER": [("", "Code: 1", ""), ("Code: ", "1", "")],
    "engine/warehouse/errors.py:_TAIL": [("", " ", "x"), ("(AAAA)", " ", "x"), ("", "(AAAA)", "x"), ("(", "A", "")],
    "engine/warehouse/errors.py:_STAGE": [("_stage.", "a", ""), ("", "_stage.", ""), ("_stage.", "a_0123456789ab_", "")],
    "engine/warehouse/errors.py:_HTTP_STATUS": [("HTTP driver received HTTP status ", "1", "x")],
    "engine/warehouse/errors.py:_LINE": [("(line ", "1", ""), ("", "(line 1, col 1", "")],
    "engine/warehouse/errors.py:_POSITION": [("", "failed at position ", ""), ("failed at position ", "1", "")],
    "cli/completion.py:_SAFE": [("", "a", "\n")],
    "engine/warehouse/server_backup.py:_SLOW_FILE": [("", ".tar", ""), ("", ".tar.", "")],
    "engine/warehouse/server_backup.py:_DESTINATION": [("disk:", "a", "!"), ("file:", "a/", "!"), ("s3:a/", "a.", "!")],
    "engine/warehouse/archive.py:_SUM": [("", "a", ""), ("a" * 64 + "  ", "x", "\n")],
    "engine/warehouse/archive.py:_LINK_TARGET": [("", "../", "x"), ("../store/abc/", "a", "x")],
    "engine/warehouse/directory_copy.py:_UUID": [("", "UUID '", ""), ("UUID '12345678-", "a", "")],
    "cli/connect.py:_NAME": [("no ", "a", ""), ("unknown ", "a ", "`"), ("there is no pipe `", "a", "")],
    "cli/data.py:_KEY": [("", "a", "\n")],
    "cli/trust.py:_ADDRESS": [("http://", "1", ":"), ("http://[", ":", "]")],
    "cli/connection.py:_TOKEN": [("", "a", " ")],
    "engine/warehouse/parser.py:_WORD": [("", "a", "")],
    "engine/warehouse/errors.py:_SUGGESTION": [("", "Maybe you meant: ", ""), ("Maybe you meant: ['", "a", "")],
    "engine/warehouse/errors.py:_RESULT_BYTES": [("", "Limit for result exceeded, max ", "")],
    "engine/compiler/refused_definitions.py:_TEMPORARY": [(" AS ", "a", ""), ("", " AS a", ""), (" AS _tmp_alter", "1", "x")],
    "engine/compiler/storage.py:_NUMBER": [("", "1", "x"), ("1.", "1", "x")],
    "engine/warehouse/render.py:_SETTING": [("", "a", "-")],
    "engine/warehouse/render.py:_NAME": [("", "a", "-")],
    "engine/warehouse/render.py:_PEAK": [("", " ", "x"), ("Peak memory:", " ", "x"), ("Peak memory: ", "1", "x")],
    "engine/warehouse/render.py:_PLACEHOLDER": [("{", " ", ""), ("{", "a", " "), ("", "{ a ", ""), ("{a", " ", "")],
    "engine/warehouse/error_trailer.py:_BARE": [("", "\nCode: 1", ""), ("\nCode: ", "1", "")],
    "engine/warehouse/dedup_log_repair.py:_LOG": [("deduplication_log_", "1", "x")],
    "engine/tokens/claims.py:RESOURCE": [("", "a", "-")],
    "engine/observe/redaction.py:_IN_QUERY": [("", "token=", ""), ("", "token", ""), ("", "token=a&", "")],
    "engine/observe/redaction.py:_DOTTED": [("", "ey-", ""), ("", "ey.", ""), ("p.", "a", ""), ("", "a.", "&")],
    "engine/observe/redaction.py:_TOKEN_PART": [("", "ey-", "")],
    "engine/observe/logs.py:_ENGINE_CODE": [("", "Code: 1", ""), ("Code: ", "1", "")],
    "engine/observe/logs.py:_QUOTED": [("", "'", ""), ("'", "a", ""), ('"', "'a", "")],
    "cli/log_reader.py:_AGE": [("", "1", "x")],
    "engine/observe/requests.py:_SANE_ID": [("", "a", "\n")],
    "engine/web/requests.py:_FORM": [("", "a", "")],
    "engine/web/openapi.py:_WRAPPED": [("Array(", ")", "x"), ("", "Array(", "")],
    "engine/project/overlooked.py:_RESOURCE_KEY": [("sql", " ", ""), ("", "\nsql", "")],
    "engine/web/openapi.py:_INTEGER": [("", "UInt", "")],
    "engine/ingest/values/moments.py:ZONE_PATTERN": [("", "'", "")],
    "engine/ingest/values/wide_types.py:ENUM_LABEL": [("", "'a'", ""), ("'a'", " ", ""), ("", "'a' = 1", ""), ("'a'=", "1", "")],
    "engine/ingest/values/wide_types.py:NULLABLE": [("UInt", "1", "x"), ("Float", "1", "x")],
    "engine/ingest/values/composite_types.py:_LAMBDA_PARAMETERS": [("", "_rk_x1", ""), ("_rk_x", "1", "a")],
    "engine/ingest/quarantine.py:_SPECIAL": [("", "a", "")],
    "engine/ingest/values/staging_mode.py:EMPTY_FIELD": [("", ",", " "), (",", " ", ""), ("", ', "" ', ""), ('""', "\t", "x")],
    "engine/ingest/values/staging_mode.py:_EMPTY_ELEMENT": [("", "[", ""), ("[", " ", ""), ("", '[ "', "")],
    "engine/ingest/values/plain_keys.py:_ESCAPED_KEY": [
        ("", '"a', ""), ('"', "\\u", ""), ("", "\\", ""), ("", '\\"', ""), ("\\", "a", ""), ('"\\u"', " ", "x"),
        ("", '\\a" ', ""),
    ],
    "engine/ingest/values/plain_keys.py:_ELEMENT": [("", "a", "")],
    "engine/ingest/row_expressions.py:NAME": [("'", "\\'", ""), ("'", "''", ""), ("", "a", ""), ("`", "a", "")],
    "engine/ingest/bisect.py:_STOPPED_AT": [("while reading the value of key ", "a", "-")],
    "engine/ingest/bisect.py:_EMPTY_OBJECT": [("{", " ", ""), ("", "{ ", "")],
    "engine/ingest/row_position.py:_ROW": [("(at row ", "1", ""), ("", "(at row 1", "")],
    "engine/ingest/row_position.py:_ENGINE_CONTEXT": [(".", " ", ""), ("", ". ", ""), (".", "\n", "(at")],
    "engine/ingest/formats/json_values.py:_OUTSIDE": [("", "a", "")],
    "engine/ingest/formats/json_values.py:_INSIDE": [("", "a", "")],
    "engine/ingest/formats/json_values.py:_ESCAPED": [("", "\\", ""), ("", "a", "")],
    "engine/ingest/formats/json_values.py:_NO_ESCAPE": [("", "\\x", ""), ("", "a", "")],
    "engine/ingest/formats/body_rows.py:_SOLID": [("", " ", "")],
    "engine/settings.py:_WORKSPACE": [("", "a", "-")],
    "engine/fanout/view_errors.py:_PUSHING": [("while pushing to view ", "a.", "'"), ("", "while pushing to view a", "")],
    "engine/fanout/view_errors.py:_PUSHED": [],  # the last 2,000 characters of an error: see below
    "engine/fanout/view_errors.py:_TARGET": [("Target table '", "a.", ""), ("Target table '", "a", "'")],
    "engine/project/check_datasource.py:_TENANT_TYPE": [("LowCardinality(", "String", "")],
    "engine/project/check_datasource.py:_NO_KEY": [("Nullable", " ", ""), ("", "AggregateFunction ", "")],
    "engine/project/check_datasource.py:_STATE": [("", "AggregateFunction ", ""), ("AggregateFunction", " ", "")],
    "engine/ingest/values/staged_columns.py:HOLDS_STATE": [("", "AggregateFunction", "")],
    "engine/project/check_datasource.py:_SET": [("", "set", "")],
    "engine/project/lifetimes.py:_SPANS": [("-", " ", ""), ("", "INTERVAL ", ""), ("", "INTERVAL 1 ", "")],
    "engine/project/lifetimes.py:_ADDING": [("addDays", " ", ""), ("", "addDays ", "")],
    "engine/project/lifetimes.py:_LAST": [("", ",", ""), ("", ", 1 ", "x")],
    "engine/project/lifetimes.py:_KEEPS": [("TO", " ", ""), ("", "TO ", "")],
    "engine/project/lifetimes.py:_CONDITION": [("", "WHERE", ""), ("", "GROUP ", "")],
    "engine/project/source.py:_FORBIDDEN": [("", "a", "")],
    "engine/project/source.py:_SURROGATE": [("", "a", "")],
    "engine/project/fields.py:_NAME": [("", "a", "-")],
    "engine/project/fields.py:_COLUMN": [("", "a", "-")],
    "engine/project/fields.py:_WHOLE": [("", "1", "x")],
    "engine/project/fields.py:_NUMBER": [("", "1", "x")],
    "engine/project/fields.py:_SIZE": [("", "1", "x")],
    "engine/project/fields.py:_SETTING_NAME": [("", "a", "-")],
    "engine/project/fields.py:_SETTING_VALUE": [("", "a", "-")],
    "engine/project/fields.py:_INDEX_TYPE": [("a", " ", "x"), ("a(", "a", "")],
    "engine/project/fields.py:_JSON_PATH": [("$", ".a", "["), ("$['", "a", ""), ("$", "['a']", "x")],
    "engine/project/expressions.py:_QUOTED_NAME": [("`", "a", ""), ("", "`a", "")],
    "engine/project/expressions.py:_TUPLE": [("tuple", " ", "")],
    "engine/project/expressions.py:IDENTIFIER": [("", "a", "-")],
    "engine/template/parameters.py:_INTEGER": [("", "1", "x")],
    "engine/tenant_ids.py:_CANONICAL_INTEGER": [("", "1", "x")],
    "engine/template/parameters.py:_FLOAT": [("", "1", "x"), (".", "1", "x"), ("1.", "1", "x")],
    "engine/template/parameters.py:_DECIMAL": [("", "1", "x"), ("1.", "1", "x")],
    "engine/template/parameters.py:_UUID": [("", "a", "")],
    "engine/tenant_ids.py:_CANONICAL_UUID": [("", "a", "")],
    "engine/tenant_ids.py:_INTEGER_TYPE": [("", "UInt", "")],
    "engine/template/parameters.py:_ARRAY_TYPE": [("Array(", ")", "x")],
    "engine/template/parameters.py:_DECIMAL_TYPE": [("Decimal(", " ", ""), ("Decimal(1", " ", "")],
    "engine/template/parameters.py:_DATETIME64_TYPE": [("DateTime64(", "1", "")],
    "engine/project/fields.py:_INTERNAL": [("_rk", "1", "")],
    "engine/compiler/pipes.py:_AFTER_FROM": [("FROM", " ", ""), ("FROM", "\n", "("), ("", "FROM ", ""), ("IN (", "a", "-")],
    "engine/compiler/dry_run.py:_PLACEHOLDER": [("{p", "1", ""), ("", "{p1:", ""), ("{p1:", "a", "")],
    "engine/template/sql_functions.py:_PLAIN_NAME": [("", "a", "-")],
    "engine/sql/functions.py:_AGGREGATE": [("a", " ", "!"), (" ", "a", "!"), ("a", " ", "("), ("a(", " ", "")],
    "engine/sql/functions.py:_PARSED_TYPE": [("", "JSO", ""), ("", "Dynami", "")],
    "engine/sql/functions.py:_STATE": [("", "AggregateFunctio", ""), ("", "Simple", "")],
    "engine/sql/verify.py:_QUOTED": [("'", "\\'", ""), ("", "\\'", "\\"), ('"', '""', ""), ("`", "\\`", "")],
    "engine/sql/verify.py:_PLAIN": [("", "a", "\0")],
    "engine/sql/checker.py:_DECLARATION": [("", "DEFAUL", ""), ("", "TTL", "")],
    "engine/compiler/pipes.py:_STRINGS": [("'", "\\'", ""), ("", "\\'", ""), ("", "'", "")],
    "engine/template/sql_functions.py:_FUNCTION": [("", "a", "-")],
    "engine/compiler/error_location.py:_UNKNOWN": [("", "identifier '", ""), ("identifier '", "a", "")],
    "engine/compiler/error_location.py:_REFUSED": [("", "function `", ""), ("function `", "a", "")],
    "engine/compiler/error_location.py:_SUGGESTED": [("", "Maybe you meant: ['", ""), ("Maybe you meant: ['", "a", "")],
    "engine/template/date_times.py:_CLOCK": [("T10:10:10.", "1", "x"), ("", "T10:10", "")],
    "engine/template/date_times.py:_COMPACT_DAY": [("", "1", "")],
    "engine/template/date_times.py:_DAY": [("", "1", ""), ("", "2026-1", "")],
    "engine/template/date_times.py:_LOST_PLUS": [("", " 10", "")],
    "engine/template/date_times.py:_NUMBER": [("", "1", "x"), ("1.", "1", "x")],
    "engine/control/doctor/examination.py:_READING": [("while reading from part ", "a/", ""), ("while reading from part ", "a", "")],
    "engine/project/check_datasource.py:_WHOLE_TEXT": [("", "Nullable(", "")],
    "engine/project/suite.py:_TOLERANCE": [("", "1", "x"), ("1.", "1", "x")],
    "cli/testing/values.py:_INTEGER": [("", "1", "x")],
    "cli/testing/values.py:_IS_INTEGER": [("Interval", "a", "\n")],
    "cli/testing/values.py:_ZONE": [("", "DateTime(", ""), ("DateTime(", "a", ""), ("DateTime('", "a", "")],
    "cli/testing/values.py:_TIME": [("2026-01-01 ", "1", "x"), ("2026-01-01.", "1", "x")],
    "cli/testing/clock.py:_RELATIVE": [("$now+", "1", "x")],
    "cli/testing/rows.py:_NUMBER": [("", "1", "x"), ("1.", "1", "x"), ("1e", "1", "x")],
    "cli/testing/report.py:_NOT_XML": [("", "a", "")],
    "engine/project/fields.py:_JSON_STEP": [("", ".a", ""), ("", "['a", ""), ("", "['", "")],
    "engine/ingest/validation.py:ENGINE_CONTEXT": [("", ": (", ""), ("", ":", "")],
    "engine/ingest/values/shared_keys.py:_MEMBER": [('"', "\\a", ""), ('"a":"', "\\a", ""), ('"a":', "a", "{"), ('"a"', " ", "")],
    "engine/ingest/values/shared_keys.py:_SCALAR": [("", "a", "{")],
    "engine/compiler/encoding.py:_WORD": [("", "a", "-")],
    "engine/compiler/encoding.py:_ELEMENT_NAME": [("a", " ", "a"), ("`", "\\a", ""), ("", "a", "")],
    "engine/compiler/groups.py:_SUMMED": [("sum", "if", "x"), ("", "sum", "")],
    "engine/compiler/groups.py:_UNSTABLE": [("", "Float", ""), ("", "JSO", "")],
    "engine/compiler/groups.py:_AGGREGATE_TYPE": [("", " ", "x"), ("AggregateFunction", " ", "x"), ("AggregateFunction(", "a", "")],
    "engine/control/doctor/determined_columns.py:_GROUPING": [("", "Limi", ""), ("", "Sorting with ", "")],
    "engine/control/doctor/determined_columns.py:_VOLATILE": [("", "rand", ""), ("randomString", "a", "-"), ("generate", "a", " ")],
    "engine/control/doctor/merged_sources.py:_KEPT": [("SimpleAggregateFunction(", "a", ""), ("SimpleAggregateFunction(a,", ")", "x")],
    "engine/control/doctor/merged_sources.py:_STATE": [("AggregateFunction(", "a", ""), ("AggregateFunction(a,", ")", "x")],
    "engine/control/doctor/merged_sources.py:_MERGING": [("", "Merge", "-"), ("a", "MergeState", "-")],
    "engine/control/doctor/comparable_columns.py:UNSTABLE": [("groupArray", "a", "-"), ("", "topK", "")],
    "engine/control/doctor/comparable_columns.py:_NUMBER": [("Int", "1", "x")],
    "engine/control/doctor/comparable_columns.py:_STATE": [("AggregateFunction(", ")", "x")],
    "engine/control/doctor/comparable_columns.py:_RULES": [("", "DELET", ""), ("", "T", "")],
    "engine/web/openapi.py:_LARGE": [("", "UInt", "")],
    "engine/plan/loss.py:_NUMBER": [("UInt", "1", "x")],
    "engine/settings.py:_ZONE": [("", "a", " ")],
    "engine/warehouse/errors.py:_FULL": [("", "No space left on devic", "")],
    "engine/warehouse/dedup_log_repair.py:_ENTRY": [("1\t", "a", ""), ("", "1\ta", "")],
    "engine/warehouse/dedup_log_repair.py:_RECORD": [("1\t", "a_1", ""), ("1\ta", "_1", "")],
    "cli/access.py:_DURATION": [("", "1", "x")],
    "engine/warehouse/parts.py:_COUNT": [],  # files that the engine wrote
    "engine/warehouse/part_names.py:_NAME": [],  # names of files
    "engine/warehouse/new_parts.py:_BROKEN": [],  # names of directories
    "engine/warehouse/errors.py:_OF_A_PART": [
        ("", "While reading or decompressing ", ""), ("While reading or decompressing ", "a", ""),
        ("While reading or decompressing ", "/store", ""),
    ],
    "engine/sql/shape.py:_WORD": [("", "a", "-")],
}  # fmt: skip

MADE_AT_RUN_TIME = {
    "engine/ingest/values/staging_mode.py",
    "engine/ingest/values/text_tenants.py",
    "engine/warehouse/dedup_log_repair.py",
    "engine/compiler/error_location.py",
}
"""Files that put a pattern together from what they are given; what they call is tried below."""


def _calls(tree: ast.AST) -> Iterator[tuple[str, str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            value = node.func.value
            yield (value.id if isinstance(value, ast.Name) else ""), node.func.attr, node


def _sources() -> dict[str, ast.Module]:
    files = (f for part in ("engine", "cli") for f in sorted((ROOT / part).rglob("*.py")))
    return {f.relative_to(ROOT).as_posix(): ast.parse(f.read_text(encoding="utf-8")) for f in files}


def _constants(tree: ast.Module) -> Iterator[str]:
    for statement in tree.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            compiled = [c for name, method, c in _calls(statement.value) if (name, method) == ("re", "compile")]
            target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
            if compiled and isinstance(target, ast.Name):
                yield target.id


def test_every_pattern_is_a_constant_and_registered() -> None:
    constants, elsewhere = set(), set()
    for file, tree in _sources().items():
        names = set(_constants(tree))
        constants |= {f"{file}:{name}" for name in names}
        inner = [s for s in tree.body if not isinstance(s, ast.Assign | ast.AnnAssign)]
        if any(name == "re" and m in (*METHODS, "compile", "subn") for s in inner for name, m, _ in _calls(s)):
            elsewhere.add(file)
        imported = [n for s in ast.walk(tree) if isinstance(s, ast.ImportFrom) and s.module == "re" for n in s.names]
        assert not imported, f"{file}: import re as a whole"
    assert constants == set(REGISTERED), "a new pattern is registered with the texts on which it is slowest"
    assert elsewhere == MADE_AT_RUN_TIME, "patterns are constants of their modules"


def _methods() -> dict[str, set[str]]:
    """How the constants are used, by name; a name that several files have has the methods of all."""
    used_methods: dict[str, set[str]] = {}
    for tree in _sources().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in METHODS and isinstance(node.value, ast.Name):
                used_methods.setdefault(node.value.id, set()).add(node.attr)
    return used_methods


def _child(jobs: list[tuple[str, Any]], seconds: int = PROCESSOR_SECONDS) -> subprocess.CompletedProcess[str]:
    """Run jobs in a process that is killed after `seconds` of processor time."""

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))

    return subprocess.run(
        [sys.executable, "-c", "from tests.test_patterns import work; work()"],
        input=json.dumps(jobs),
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=bounded,
        check=False,
    )


def work() -> None:
    """In the child: each job's name is printed before it is done, so that the last one tells what took too long."""
    for kind, given in json.load(sys.stdin):
        print(kind, json.dumps(given)[:200], flush=True)
        if kind == "pattern":
            _try_pattern(*given)
        elif kind == "function":
            FUNCTIONS[given]()
        else:
            re.compile(given).search(" " * LENGTH)
    print("done")


def _try_pattern(place: str, methods: list[str]) -> None:
    file, _, name = place.partition(":")
    attribute = getattr(importlib.import_module(file.removesuffix(".py").replace("/", ".")), name)
    worst = [(a, b, c, LENGTH) for a, b, c in REGISTERED[place]]
    usual = [(a, b, "\0", SHORTER) for b in UNITS for a in {"", *(w[0] for w in worst)}] if worst else []
    for pattern in attribute if isinstance(attribute, tuple) else (attribute,):
        for begin, unit, end, length in (*worst, *usual):
            text: Any = begin + unit * (length // len(unit)) + end
            text = text.encode() if isinstance(pattern.pattern, bytes) else text
            for method in methods:
                if method == "sub":
                    pattern.sub(b"" if isinstance(text, bytes) else "", text)
                elif method == "finditer":
                    for _ in pattern.finditer(text):
                        pass
                else:
                    getattr(pattern, method)(text)


def test_every_pattern_is_linear() -> None:
    used = _methods()
    jobs: list[tuple[str, Any]] = [
        ("pattern", (place, sorted(used.get(place.rpartition(":")[2], {"search"})))) for place in REGISTERED
    ]
    done = _child([*jobs, *(("function", name) for name in FUNCTIONS)])
    assert done.stdout.endswith("done\n"), f"{done.stdout.splitlines()[-1]}\n{done.stderr[-2000:]}"


@pytest.mark.guard
def test_a_quadratic_pattern_is_found() -> None:
    done = _child([("text", r"\s+FORMAT\s+(\w+)\s*;?\s*$")], seconds=1)
    assert not done.stdout.endswith("done\n") and done.stdout.startswith("text"), done.stderr
