"""Parses SQL with the engine's own parser, to a syntax tree and back. Authors' SQL is never parsed in Python."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
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

_WORD = re.compile(r"[A-Za-z]{3,20}")
_KEYWORDS = frozenset(
    (
        "SELECT", "DISTINCT", "FROM", "FINAL", "SAMPLE", "JOIN", "LEFT", "RIGHT", "INNER", "OUTER", "CROSS", "USING",
        "WHERE", "PREWHERE", "GROUP", "HAVING", "WINDOW", "QUALIFY", "ORDER", "LIMIT", "OFFSET", "UNION", "INTERSECT",
        "EXCEPT", "WITH", "CASE", "WHEN", "THEN", "ELSE", "BETWEEN", "INTERVAL",
    )
)  # fmt: skip

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
        refused = _refused(exc)
        if refused.code is errors.SQL_SYNTAX and refused.hint is None:
            refused.hint = _keyword_hint(sql, refused.place)
        raise refused from exc
    try:
        syntax_tree: dict[str, Any] = orjson.loads(tree)
    except orjson.JSONDecodeError as exc:
        raise EngineError(errors.SQL_SYNTAX, "SQL contains a literal that is not valid text") from exc
    if syntax_tree.get("type") != _SELECT:
        raise EngineError(errors.SQL_SYNTAX, "only a SELECT is allowed here")
    return syntax_tree, str(text)


def format_tree(ask: Ask, tree: Mapping[str, Any]) -> str:
    """The canonical text of a syntax tree. Raises SQL_SYNTAX if it is not a valid tree, or too deep."""
    try:
        text = orjson.dumps(dict(tree)).decode()
    except TypeError as exc:
        hint = "put inner expressions in subqueries or nodes"
        raise EngineError(errors.SQL_SYNTAX, "the SQL text is nested too deeply", hint=hint) from exc
    try:
        return str(ask(_FORMAT, {"tree": text}).rows[0][0])
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
    return EngineError(
        errors.SQL_SYNTAX, message, engine_code=number, hint=exc.hint, place=exc.place, detail=exc.detail
    )


def _keyword_hint(sql: str, place: errors.Place | None) -> str | None:
    """The hint for a misspelled keyword: the word where the parser stopped, or the one before it.

    The parser reads `FRM` in `SELECT a FRM events` as an alias, and stops after it.
    """
    if place is None or place.line is None or place.column is None:
        return None
    lines = sql.split("\n")[: place.line]
    stopped = sum(len(line) + 1 for line in lines[:-1]) + place.column - 1
    # Two words at most are of interest, and 100 characters before the place contain the earlier one.
    words = [m for m in _WORD.finditer(sql, max(0, stopped - 100), stopped + 100) if m.start() <= stopped][-2:]
    for word in reversed(words):
        if word[0].upper() not in _KEYWORDS and (near := errors.nearest(word[0], _KEYWORDS, cutoff=0.75)):
            return f"did you mean `{near}`?"
    return None


class Selects:
    """Checks that a string is a single SELECT. Positive results are cached, for each owner of a text.

    A reader's handle is read-only, but the engine still runs statements that write files, such as
    `INSERT INTO FUNCTION file(…)` and `INTO OUTFILE`, and some engines run several statements at once.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._accepted: LruCache[tuple[str, Hashable], bool] = LruCache(_ACCEPTED_TEXTS, weigh=size_of)

    def check(self, sql: str, owner: Hashable = None) -> None:
        """Raise SQL_SYNTAX unless the string is a single SELECT without FORMAT and INTO OUTFILE."""
        if (sql, owner) in self._accepted:
            return
        try:
            kind, has_output_clause = self._ask(_KIND, {"sql": sql}).rows[0]
        except EngineError as exc:
            raise _refused(exc) from exc
        if kind != _SELECT or has_output_clause:
            raise EngineError(errors.SQL_SYNTAX, "only a SELECT is allowed here")
        self._accepted.put((sql, owner), True)
