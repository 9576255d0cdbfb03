"""Parses SQL with the engine's own parser, to a syntax tree and back. Authors' SQL is never parsed in Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from engine import errors
from engine.cache import LruCache, size_of
from engine.warehouse.errors import EngineError
from engine.warehouse.port import Rows, Value

MAX_SQL_BYTES = 64 << 10
"""Longest SQL text of an author or caller, in bytes."""

_SELECT = "SelectWithUnionQuery"
_LIMITS = (
    "SETTINGS max_parser_backtracks = 20000, max_parser_depth = 300, max_query_size = 400000, implicit_select = 0"
)
# The SQL is limited by MAX_SQL_BYTES. The JSON of its tree is several times as long.
_PARSE = f"WITH parseQueryToJSON({{sql:String}}) AS j SELECT j, formatQueryFromJSON(j) {_LIMITS}"
_FORMAT = "SELECT formatQueryFromJSON({tree:String}) SETTINGS max_query_size = 4000000"
PARSER_FUNCTIONS = ("parseQueryToJSON", "formatQueryFromJSON")
"""Functions that an engine needs to parse SQL. Older servers do not have them."""

_KIND = """WITH parseQueryToJSON({sql:String}) AS j
SELECT JSONExtractString(j, 'type') AS kind, JSONHas(j, 'out_file') OR JSONHas(j, 'format_ast') AS more
SETTINGS max_query_size = 1000000"""
_ACCEPTED_TEXTS = 2048
"""Maximum number of cached strings that are a single SELECT."""

Ask = Callable[[str, Mapping[str, Value]], Rows]


def parse(ask: Ask, sql: str) -> tuple[dict[str, Any], str]:
    """The tree and canonical text of a single SELECT. Raises SQL_SYNTAX for anything else."""
    if len(sql.encode("utf-8", "surrogatepass")) > MAX_SQL_BYTES:
        raise EngineError(errors.SQL_SYNTAX, f"SQL is longer than {MAX_SQL_BYTES >> 10} KiB")
    if "\0" in sql or any("\ud800" <= c <= "\udfff" for c in sql):
        raise EngineError(errors.SQL_SYNTAX, "SQL contains a null character or half of a surrogate pair")
    try:
        tree, text = ask(_PARSE, {"sql": sql}).rows[0]
    except EngineError as exc:
        raise _refused(exc) from exc
    try:
        syntax_tree: dict[str, Any] = orjson.loads(tree)
    except orjson.JSONDecodeError as exc:
        raise EngineError(errors.SQL_SYNTAX, "SQL contains a literal that is not valid text") from exc
    if syntax_tree.get("type") != _SELECT:
        raise EngineError(errors.SQL_SYNTAX, "only a SELECT is allowed here")
    return syntax_tree, str(text)


def format_tree(ask: Ask, tree: Mapping[str, Any]) -> str:
    """The canonical text of a syntax tree. Raises SQL_SYNTAX if it is not a valid tree."""
    try:
        return str(ask(_FORMAT, {"tree": orjson.dumps(dict(tree)).decode()}).rows[0][0])
    except EngineError as exc:
        raise _refused(exc) from exc


def _refused(exc: EngineError) -> EngineError:
    """Convert the parser's error to SQL_SYNTAX. Failures of the database remain unchanged."""
    if exc.code not in (errors.ENGINE, errors.SQL_SYNTAX):
        return exc
    number = exc.engine_code
    message = exc.message
    if "does not support JSON serialization" in (exc.detail or "") or "INSERT with inline" in (exc.detail or ""):
        message = "only a SELECT is allowed here"
    return EngineError(errors.SQL_SYNTAX, message, engine_code=number, place=exc.place, detail=exc.detail)


class Selects:
    """Checks that a string is a single SELECT. Positive results are cached.

    A reader's handle is read-only, but the engine still runs statements that write files, such as
    `INSERT INTO FUNCTION file(…)` and `INTO OUTFILE`, and some engines run several statements at once.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._accepted: LruCache[str, bool] = LruCache(_ACCEPTED_TEXTS, weigh=size_of)

    def check(self, sql: str) -> None:
        """Raise SQL_SYNTAX unless the string is a single SELECT without FORMAT and INTO OUTFILE."""
        if sql in self._accepted:
            return
        try:
            kind, has_output_clause = self._ask(_KIND, {"sql": sql}).rows[0]
        except EngineError as exc:
            raise _refused(exc) from exc
        if kind != _SELECT or has_output_clause:
            raise EngineError(errors.SQL_SYNTAX, "only a SELECT is allowed here")
        self._accepted.put(sql, True)
