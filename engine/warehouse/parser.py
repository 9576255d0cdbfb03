"""The engine as parser: SQL text to its syntax tree and back. Authors' SQL is never parsed in Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from engine import errors
from engine.cache import LruCache
from engine.warehouse.errors import EngineError
from engine.warehouse.port import Rows, Value

MAX_SQL_BYTES = 64 << 10
"""Longest SQL text, in bytes."""

_SELECT = "SelectWithUnionQuery"
_LIMITS = (
    "SETTINGS max_parser_backtracks = 20000, max_parser_depth = 300, max_query_size = 400000, implicit_select = 0"
)
# The text itself is bounded by MAX_TEXT; its tree as JSON is several times as long.
_PARSE = f"WITH parseQueryToJSON({{sql:String}}) AS j SELECT j, formatQueryFromJSON(j) {_LIMITS}"
_FORMAT = "SELECT formatQueryFromJSON({tree:String}) SETTINGS max_query_size = 4000000"
PARSER_FUNCTIONS = ("parseQueryToJSON", "formatQueryFromJSON")
"""What an engine must have to be the parser."""

_KIND = """WITH parseQueryToJSON({sql:String}) AS j
SELECT JSONExtractString(j, 'type') AS kind, JSONHas(j, 'out_file') OR JSONHas(j, 'format_ast') AS more
SETTINGS max_query_size = 1000000"""
_ACCEPTED_TEXTS = 2048
"""Number of texts that are remembered as a single SELECT."""

Ask = Callable[[str, Mapping[str, Value]], Rows]


def parse(ask: Ask, sql: str) -> tuple[dict[str, Any], str]:
    """The tree and canonical text of one SELECT. Raises SQL_SYNTAX on anything else."""
    if len(sql.encode("utf-8", "surrogatepass")) > MAX_SQL_BYTES:
        raise EngineError(errors.SQL_SYNTAX, f"SQL is longer than {MAX_SQL_BYTES >> 10} KiB")
    if "\0" in sql or any("\ud800" <= c <= "\udfff" for c in sql):
        raise EngineError(errors.SQL_SYNTAX, "SQL holds a character that no SQL text may hold")
    try:
        tree, text = ask(_PARSE, {"sql": sql}).rows[0]
    except EngineError as exc:
        raise _refused(exc) from exc
    try:
        found: dict[str, Any] = orjson.loads(tree)
    except orjson.JSONDecodeError as exc:
        raise EngineError(errors.SQL_SYNTAX, "SQL holds a literal that is not valid text") from exc
    if found.get("type") != _SELECT:
        raise EngineError(errors.SQL_SYNTAX, "only a SELECT is allowed here")
    return found, str(text)


def format_tree(ask: Ask, tree: Mapping[str, Any]) -> str:
    """The canonical text of a tree. Raises SQL_SYNTAX when it is none."""
    try:
        return str(ask(_FORMAT, {"tree": orjson.dumps(dict(tree)).decode()}).rows[0][0])
    except EngineError as exc:
        raise _refused(exc) from exc


def _refused(exc: EngineError) -> EngineError:
    """The parser's refusal as an error of the text; failures of the database stay what they are."""
    if exc.code not in (errors.ENGINE, errors.SQL_SYNTAX):
        return exc
    number = exc.engine_code
    message = exc.message
    if "does not support JSON serialization" in (exc.detail or "") or "INSERT with inline" in (exc.detail or ""):
        message = "only a SELECT is allowed here"
    return EngineError(errors.SQL_SYNTAX, message, engine_code=number, place=exc.place, detail=exc.detail)


class Selects:
    """Knows which texts are one SELECT and nothing more; a text is put to the engine once.

    A reader's handle refuses changes of tables, but not all that writes: `INSERT INTO FUNCTION file(…)` and
    `INTO OUTFILE` pass, and some engines run several statements at once.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._accepted: LruCache[str, bool] = LruCache(_ACCEPTED_TEXTS)

    def check(self, sql: str) -> None:
        """Raise SQL_SYNTAX unless the text is one SELECT without a format or file of its own."""
        if sql in self._accepted:
            return
        try:
            kind, more = self._ask(_KIND, {"sql": sql}).rows[0]
        except EngineError as exc:
            raise _refused(exc) from exc
        if kind != _SELECT or more:
            raise EngineError(errors.SQL_SYNTAX, "only a SELECT is allowed here")
        self._accepted.put(sql, True)
