"""Functions that match untrusted text in several steps or with patterns that they put together, each called with the
texts on which it is slowest. `test_patterns` runs them in a child process.
"""

from __future__ import annotations

import contextlib

LENGTH = 300_000
"""Characters of a text."""


def _sentence() -> None:
    from engine.warehouse.errors import sentence, translate

    for unit in (" ", ". ", "(AAAA) ", "Code: 1. ", "\n"):
        sentence("Code: 395. DB::Exception: " + unit * (LENGTH // len(unit)) + "x")
        translate(RuntimeError("Code: 395. DB::Exception: " + unit * (LENGTH // len(unit)) + "x"))


def _format() -> None:
    from engine.web.sql import split_format

    for unit in (" ", "\n", " FORMAT", " FORMAT JSON"):
        split_format("SELECT 1" + unit * (LENGTH // len(unit)) + "x")


def _views() -> None:
    from engine.errors import ENGINE, RookeryError
    from engine.fanout.view_errors import is_view_failure

    for unit in (" ", ".", ". ", "a.", ": while pushing to view a.a", ": while pushing to view a.", "(version )"):
        text = ": while pushing to view a.b" + unit * (LENGTH // len(unit))
        is_view_failure(RookeryError(ENGINE, text + "x"))
        is_view_failure(RookeryError(ENGINE, "Target table '" + unit * (LENGTH // len(unit))))


def _tail() -> None:
    from engine.errors import RookeryError
    from engine.warehouse.error_trailer import ErrorTrailer
    from engine.warehouse.port import Format

    for unit in ("\nCode: 1. DB::Exception: (version ", "(version ", ")", "(version )"):
        for _ in range(20):
            tail = ErrorTrailer(Format.CSV, None)
            list(tail.push(b"\nCode: 1. DB::Exception: " + unit.encode() * (LENGTH // len(unit)) + b"x"))
            with contextlib.suppress(RookeryError):
                list(tail.finish())


def _types() -> None:
    from engine.warehouse.type_names import on_one_line

    for unit in (" ", "\n", " \n", "(\n", "\n)"):
        on_one_line("Tuple(" + unit * (LENGTH // len(unit)) + "x")


def _log() -> None:
    from engine.observe.redaction import redact

    for unit in ("ey-", "ey-.", "p.", "a.p.", "token=", "-p."):
        redact(unit * (LENGTH // len(unit)))


def _lifetimes() -> None:
    from engine.project.lifetimes import shortest_lifetime

    for unit in (" ", "addDays(", "- ", "INTERVAL ", "INTERVAL 1 "):
        shortest_lifetime("a + " + unit * (LENGTH // len(unit)) + "x")
    assert shortest_lifetime("at + INTERVAL " + "9" * 5000 + " DAY") is None
    assert shortest_lifetime("at  +\n INTERVAL  30   DAY") == 30 * 86400


def _at_run_time() -> None:
    from engine.compiler.error_location import _find_word
    from engine.ingest.values.staging_mode import empty_text_pattern, non_text_pattern
    from engine.ingest.values.text_tenants import other_tenant_pattern

    _find_word("a " * (LENGTH // 4) + "b", "a " * (LENGTH // 2))
    _find_word("a " * 99 + "b", "a " * (LENGTH // 2))
    _find_word("a", "a  " * (LENGTH // 3), after=r"\s{0,10}\(")
    for unit in ("from ", "from" + " " * 20, " "):
        _find_word("a", unit * (LENGTH // len(unit)), before=r"\b(?:from|join|in)\s{1,20}\(?")
    for unit in ('"a" ', '"a"  :  ', " ", '"', '"a"'):
        empty_text_pattern(["a", "aa"]).search(('"a"' + unit * (LENGTH // len(unit))).encode())
        non_text_pattern(["a", "aa"]).search(('"a"' + unit * (LENGTH // len(unit))).encode())
        other_tenant_pattern("a").search(('"a"' + unit * (LENGTH // len(unit))).encode())


def _members() -> None:
    from engine.ingest.values.shared_keys import members

    for value in ('{"city":1}', "[]", "{x}"):
        unit = f'"a":{value},'
        text = "{" + unit * (2 * LENGTH // len(unit)) + '"b":1}'
        assert len(members(text.encode()) or ()) == 2 * LENGTH // len(unit) + 1


FUNCTIONS = {
    f.__name__: f for f in (_sentence, _format, _views, _tail, _types, _log, _lifetimes, _at_run_time, _members)
}  # fmt: skip
