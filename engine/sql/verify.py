"""The wall between tenants: which author SQL may run, and the canonical text of it that does.

An author's text is parsed alone by the engine. The tree is walked with closed lists of node types, keys, functions
and tables; FINAL and SAMPLE move into the relations and PREWHERE into WHERE; then the engine writes the tree as
text, and that text is parsed and walked again. What runs is therefore a text that was itself judged, and that means
the same wherever it is embedded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine.errors import SQL_REFUSED, SQL_SYNTAX, VIEW_SHAPE, RookeryError
from engine.sql import shape
from engine.sql.argument_bounds import bound_arguments
from engine.sql.checker import Text, walk
from engine.sql.expanded_size import Extent
from engine.sql.grammar import Node, refuse
from engine.sql.size_measure import extent

MAX_SQL_BYTES = 64 * 1024
"""Longest text that is parsed at all."""

MAX_CANONICAL_ROUNDS = 3
"""How often a text may change by being written again before it is refused."""

# A quote that never closes takes the rest with it, and is noticed by its group.
_QUOTED = re.compile(
    r"""'(?:[^'\\]|\\(?:.|\Z)|'')*+(?:'|(\Z))|`(?:[^`\\]|\\(?:.|\Z)|``)*+(?:`|(\Z))"""
    r"""|"(?:[^"\\]|\\(?:.|\Z)|"")*+(?:"|(\Z))""",
    re.DOTALL,
)
_PLAIN = re.compile(r"[ \n!%()*+,\-./0-9:<=>A-Z\[\]^_a-z{|}]*")


class Parser(Protocol):
    """The engine's parser. Every method raises `RookeryError` for what it cannot parse or write."""

    def parse(self, sql: str) -> tuple[dict[str, Any], str]:
        """The syntax tree of one statement and its canonical text."""
        ...

    def format(self, tree: dict[str, Any]) -> str:
        """The canonical text of a syntax tree."""
        ...

    def functions(self) -> frozenset[str]:
        """The names of all functions that the engine knows, user-defined ones included."""
        ...


@dataclass(frozen=True)
class Verified:
    """A text that may run. `canonical` is what runs, in place of the author's.

    `reads` are the bound names that it reads, `final` those it reads with FINAL, `sample` those it samples with
    (ratio, offset); both were removed from the text and belong into the relations. `leftmost` is the bound name that
    the first SELECT reads first. `branches` are the texts of a view's top-level UNION ALL, one if it is none, and
    `branch_leftmost` has the left-most name of each. `outputs` are the column names where evident (a help, not a
    promise). `plain` says that it is one SELECT which may follow a WITH of ours as it stands. `names` has every
    column that it can mean, None if it can mean all; `uses` says which of them it passes to functions. `extent` is
    what one use of it expands to.
    """

    canonical: str
    reads: frozenset[str]
    final: frozenset[str] = frozenset()
    sample: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)
    leftmost: str | None = None
    branches: tuple[str, ...] = ()
    branch_leftmost: tuple[str | None, ...] = ()
    outputs: tuple[str | None, ...] | None = None
    plain: bool = False
    names: frozenset[str] | None = None
    uses: shape.Uses | None = None
    extent: Extent = field(default_factory=Extent)
    slow: bool = False

    @property
    def identity(self) -> tuple[object, ...]:
        """What tells two texts apart: FINAL and SAMPLE are no longer in the canonical one."""
        return (self.canonical, self.final, tuple(sorted(self.sample.items())))


def verify(
    sql: str,
    parser: Parser,
    *,
    bound: frozenset[str],
    placeholders: Mapping[str, str],
    view: bool = False,
    reserved: frozenset[str] = frozenset(),
) -> Verified:
    """Judge an author's text and return what may run.

    `bound` are the names that may stand as tables, `placeholders` the generated `{name:Type}` with their types,
    `reserved` further names that the text may not define. `view` adds the rules of materialized views.
    Raises SQL_REFUSED, FUNCTION_REFUSED, TABLE_REFUSED, VIEW_SHAPE, and what the parser raises.
    """
    check_text(sql)
    judge = _Judge(parser, bound, placeholders, reserved)
    tree, _ = judge.parse(sql)
    first = judge.walk(tree)
    final, sample = _hoist(first)
    if not view:
        # What a view says is stored, and its rows are few at a time.
        bound_arguments(first.bounded)
    canonical, tree = judge.settle(parser.format(tree))
    parts = shape.branches(tree)
    # Only a view is divided, and every branch is put to the engine's parser.
    texts = (canonical,) if len(parts) == 1 or not view else tuple(judge.settle(parser.format(p))[0] for p in parts)
    lefts = tuple(shape.leftmost(p, bound) for p in parts)
    if view:
        _check_view(tree, parts, lefts, final, sample)
    return Verified(
        canonical=canonical,
        reads=frozenset(first.reads),
        final=final,
        sample=sample,
        leftmost=lefts[0],
        branches=texts,
        branch_leftmost=lefts,
        outputs=shape.outputs(tree),
        plain=shape.is_plain(tree),
        names=shape.names(tree),
        uses=shape.uses(tree),
        extent=extent(tree),
        slow=bool(first.bounded),
    )


def check_text(sql: str) -> None:
    """Refuse a text that should not even be parsed: too long, not UTF-8, or with NUL."""
    try:
        size = len(sql.encode())
    except UnicodeEncodeError as exc:
        raise RookeryError(SQL_SYNTAX, "the SQL text is not valid Unicode") from exc
    if size > MAX_SQL_BYTES:
        raise RookeryError(
            SQL_REFUSED, f"the SQL text has {size} bytes, more than {MAX_SQL_BYTES}", hint="split it into nodes"
        )
    if "\0" in sql:
        refuse("a NUL character", "remove it")


def check_canonical(text: str) -> None:
    """Refuse a canonical text whose end the surrounding statement could not be sure of.

    The engine's formatter never writes such a text: this is a second look, independent of it. Outside of quotes there
    may be no comment, heredoc, semicolon or character beyond plain ASCII, and parentheses must pair.
    """
    bare = _QUOTED.sub(lambda found: " " if found.lastindex is None else found[0][0], text)
    if not _PLAIN.fullmatch(bare) or "--" in bare or "/*" in bare:
        refuse("a text that cannot be embedded safely", "write names in backquotes and literals in single quotes")
    depth = 0
    for character in bare:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0:
            break
    if depth:
        refuse("a text with unpaired parentheses")


@dataclass(frozen=True)
class _Judge:
    parser: Parser
    bound: frozenset[str]
    placeholders: Mapping[str, str]
    reserved: frozenset[str]

    def parse(self, text: str) -> tuple[Node, str]:
        """The parser's answer. A literal with escaped bytes that are not UTF-8 makes a tree that is not JSON."""
        try:
            return self.parser.parse(text)
        except ValueError as exc:
            raise RookeryError(
                SQL_SYNTAX, "the SQL text has no readable syntax tree", hint="write bytes with unhex('...')"
            ) from exc

    def walk(self, tree: Node) -> Text:
        return walk(
            tree,
            bound=self.bound,
            reserved=self.reserved | self.bound,
            placeholders=self.placeholders,
            known=self.parser.functions,
        )

    def settle(self, text: str) -> tuple[str, Node]:
        """Parse and walk a text of the formatter until writing it again changes nothing."""
        for _ in range(MAX_CANONICAL_ROUNDS):
            check_canonical(text)
            tree, again = self.parse(text)
            found = self.walk(tree)
            if found.hoistable or found.prewheres or found.qualify:
                break
            if again == text:
                return text, tree
            text = again
        return refuse("a query without a stable canonical text", "simplify it")


def _hoist(text: Text) -> tuple[frozenset[str], Mapping[str, tuple[str, str | None]]]:
    """Take FINAL and SAMPLE out of the tree, move PREWHERE into WHERE, and qualify the names that need it."""
    final: set[str] = set()
    sample: dict[str, tuple[str, str | None]] = {}
    for name, tables in text.hoistable.items():
        spelled = {_modifiers(t) for t in tables}
        if len(spelled) > 1 or len(tables) < text.reads[name]:
            refuse(
                f"reading `{name}` with FINAL or SAMPLE in one place and without it in another",
                "write it the same everywhere, or set `final: true` on the datasource",
            )
        is_final, size, offset = spelled.pop()
        final |= {name} if is_final else set()
        if size is not None:
            sample[name] = (size, offset)
        for table in tables:
            for key in ("final", "sample_size", "sample_offset"):
                table.pop(key, None)
    for select in text.prewheres:
        conditions = [select.pop("prewhere"), *([select["where"]] if "where" in select else [])]
        select["where"] = conditions[0] if len(conditions) == 1 else _and(conditions)
    for identifier, owner in text.qualify:
        identifier["name_parts"] = [owner, identifier["name"]]
        identifier["name"] = f"{owner}.{identifier['name']}"
    return frozenset(final), sample


def _modifiers(table: Node) -> tuple[bool, str | None, str | None]:
    return bool(table.get("final")), _ratio(table.get("sample_size")), _ratio(table.get("sample_offset"))


def _ratio(node: Node | None) -> str | None:
    """A share of the rows. A number of rows is refused: the engine takes it as a share of everybody's rows."""
    if node is None:
        return None
    bottom = node.get("denominator", "1")
    top = node["numerator"]
    if int(top) > int(bottom):
        refuse("SAMPLE of a number of rows", "write a share, as in SAMPLE 1 / 10")
    return f"{top}" if bottom == "1" else f"{top} / {bottom}"


def _and(conditions: list[Node]) -> Node:
    arguments = {"type": "ExpressionList", "children": conditions}
    return {"type": "Function", "name": "and", "arguments": arguments, "is_operator": True}


def _check_view(
    tree: Node,
    parts: list[Node],
    lefts: tuple[str | None, ...],
    final: frozenset[str],
    sample: Mapping[str, tuple[str, str | None]],
) -> None:
    if final or sample:
        _no_view("FINAL or SAMPLE", "a view sees the rows of one insert; remove it")
    if len(parts) == 1 and shape.is_union(tree):
        _no_view("UNION DISTINCT, INTERSECT or EXCEPT at the top", "only UNION ALL can be split into views")
    for part, left in zip(parts, lefts, strict=True):
        select = shape.top(part)
        if any(k in select for k in ("order_by", "order_by_all", "limit_length", "limit_offset")):
            _no_view("ORDER BY or LIMIT at the top", "a target has its own order; sort and limit where it is read")
        if left is None:
            _no_view(
                "a query that does not read a datasource first", "put the datasource that feeds it first in FROM"
            )


def _no_view(what: str, hint: str) -> None:
    raise RookeryError(VIEW_SHAPE, f"{what} cannot be in a materialized node", hint=hint)
