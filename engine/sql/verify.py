"""Decides which of the authors' SQL may run, and returns the canonical SQL that runs instead.

The engine parses the author's SQL separately. `checker` compares the tree with allow-lists of node types, keys,
functions and tables. FINAL and SAMPLE are moved into the relations, and PREWHERE into WHERE. The engine then formats
the tree as SQL, which is parsed and checked again. So the SQL that runs has itself been checked, and its meaning does
not depend on where it is embedded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine.errors import SQL_REFUSED, SQL_SYNTAX, VIEW_SHAPE, RookeryError
from engine.sql import shape
from engine.sql.argument_bounds import GENERATED, bound_arguments
from engine.sql.checked_tree import CheckedTree
from engine.sql.checker import check_tree
from engine.sql.expanded_size import Extent
from engine.sql.functions import refuse_parsing
from engine.sql.grammar import refuse
from engine.sql.size_measure import extent
from engine.sql.tree import Node

MAX_SQL_BYTES = 64 * 1024
"""Longest SQL, in bytes, that is passed to the parser."""

MAX_CANONICAL_ROUNDS = 3
"""How often the formatter may change the SQL before it is refused as unstable."""

# An unclosed quote matches up to the end of the text. It sets a group, so the caller can distinguish it from a closed
# one.
_QUOTED = re.compile(
    r"""'(?:[^'\\]|\\(?:.|\Z)|'')*+(?:'|(\Z))|`(?:[^`\\]|\\(?:.|\Z)|``)*+(?:`|(\Z))"""
    r"""|"(?:[^"\\]|\\(?:.|\Z)|"")*+(?:"|(\Z))""",
    re.DOTALL,
)
_PLAIN = re.compile(r"[ \n!%()*+,\-./0-9:<=>A-Z\[\]^_a-z{|}]*")


class Parser(Protocol):
    """The engine's parser. `parse` and `format` raise `RookeryError` for SQL or trees that they do not accept."""

    def parse(self, sql: str) -> tuple[dict[str, Any], str]:
        """Return the syntax tree of one statement and its canonical text."""
        ...

    def format(self, tree: dict[str, Any]) -> str:
        """Return the canonical text of a syntax tree."""
        ...

    def functions(self) -> frozenset[str]:
        """Return the names of all of the engine's functions, user-defined ones included."""
        ...


@dataclass(frozen=True)
class Verified:
    """An author's SQL that may run, and its properties."""

    canonical: str
    """The SQL that runs instead of the author's."""
    reads: frozenset[str]
    """The bound names that it reads."""
    final: frozenset[str] = frozenset()
    """Names to read with FINAL. FINAL is not in `canonical`; it belongs in the relation."""
    sample: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)
    """Names to sample, each with (ratio, offset). SAMPLE is not in `canonical`; it belongs in the relation."""
    leftmost: str | None = None
    """The bound name that the first SELECT reads first."""
    branches: tuple[str, ...] = ()
    """The branches of a view's top-level UNION ALL, or only `canonical` for any other query."""
    branch_leftmost: tuple[str | None, ...] = ()
    """`leftmost` of each branch."""
    outputs: tuple[str | None, ...] | None = None
    """Column names that the SQL shows; None for an unnamed column."""
    plain: bool = False
    """Whether it is a single SELECT that can follow a generated WITH clause without brackets."""
    names: frozenset[str] | None = None
    """Every column that it can mean; None means any column."""
    uses: shape.Uses | None = None
    """Which columns it passes to functions; None for any column."""
    extent: Extent = field(default_factory=Extent)
    """How large one use of it becomes when it is expanded."""
    slow: bool = False
    """Whether it calls a function whose arguments have a length limit."""

    @property
    def identity(self) -> tuple[object, ...]:
        """A key that identifies the SQL. It includes FINAL and SAMPLE, which `canonical` lacks."""
        return (self.canonical, self.final, tuple(sorted(self.sample.items())))


def verify(
    sql: str, parser: Parser, *, bound: frozenset[str], placeholders: Mapping[str, str], view: bool = False
) -> Verified:
    """Check an author's SQL and return the SQL that may run.

    `bound` are the names that the text may use as tables, and not define; `placeholders` the generated `{name:Type}`
    parameters with their types. `view` adds the rules for materialized views.
    Raises SQL_REFUSED, FUNCTION_REFUSED, TABLE_REFUSED, VIEW_SHAPE, and the parser's errors.
    """
    return Verification(parser, bound, placeholders).verify(sql, view=view)


def check_text(sql: str) -> None:
    """Refuse SQL before it is parsed if it is too long, is not valid Unicode, or has a NUL character."""
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
    """Refuse canonical SQL that could break out of the statement in which it is embedded.

    The engine's formatter never writes such SQL, but this check does not rely on that. Outside quotes, the SQL may
    only have plain ASCII characters and balanced parentheses, and no comment, heredoc or semicolon.
    """
    unquoted = _QUOTED.sub(lambda match: " " if match.lastindex is None else match[0][0], text)
    if not _PLAIN.fullmatch(unquoted) or "--" in unquoted or "/*" in unquoted:
        refuse("SQL that cannot be embedded safely", "write names in backquotes and literals in single quotes")
    depth = 0
    for character in unquoted:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0:
            break
    if depth:
        refuse("SQL with unbalanced parentheses")


@dataclass(frozen=True)
class Verification:
    """Checks SQL that may use the same names; see `verify`."""

    parser: Parser
    bound: frozenset[str]
    placeholders: Mapping[str, str]
    withdrawn: frozenset[str] = frozenset()
    """Functions that are allowed in addition, in lower case."""
    is_sent: bool = False
    """Whether a caller sends the SQL, instead of the author of a file."""

    def verify(self, sql: str, *, view: bool) -> Verified:
        """Check an author's SQL and return the SQL that may run."""
        check_text(sql)
        tree, _ = self.parse(sql)
        checked = self.check(tree)
        if self.is_sent:
            refuse_parsing(tree)
        final, sample = _hoist(checked)
        if not view:
            # Views are exempt, because their SQL is stored in the catalog, and an insert has few rows.
            bound_arguments(checked.bounded, tree)
        # From here on, only the canonical SQL is used. The tree is parsed from it, because this SQL will run.
        canonical, tree = self.canonicalize(self.parser.format(tree))
        branches = shape.branches(tree)
        leftmost = tuple(shape.leftmost(b, self.bound) for b in branches)
        if view:
            _check_view(tree, branches, leftmost, final, sample)
        return Verified(
            canonical=canonical,
            reads=frozenset(checked.reads),
            final=final,
            sample=sample,
            leftmost=leftmost[0],
            # Only a view is split into branches, because each branch needs additional calls of the parser.
            branches=self._texts(branches) if view and len(branches) > 1 else (canonical,),
            branch_leftmost=leftmost,
            outputs=shape.outputs(tree),
            plain=shape.is_plain(tree),
            names=shape.names(tree),
            uses=shape.uses(tree),
            extent=extent(tree),
            slow=checked.is_slow,
        )

    def _texts(self, branches: Sequence[Node]) -> tuple[str, ...]:
        """The canonical SQL of each branch of a UNION ALL."""
        return tuple(self.canonicalize(self.parser.format(branch))[0] for branch in branches)

    def parse(self, text: str) -> tuple[Node, str]:
        """Parse the SQL. The tree of a literal with bytes that are not UTF-8 is not valid JSON: raises SQL_SYNTAX."""
        try:
            return self.parser.parse(text)
        except ValueError as exc:
            raise RookeryError(
                SQL_SYNTAX, "the SQL text has bytes that are not UTF-8", hint="write bytes with unhex('...')"
            ) from exc

    def check(self, tree: Node, *, generated: frozenset[str] = frozenset()) -> CheckedTree:
        """Check a tree against the allow-lists; see `check_tree`."""
        return check_tree(
            tree,
            bound=self.bound,
            placeholders=self.placeholders,
            engine_functions=self.parser.functions,
            generated=generated | self.withdrawn,
        )

    def canonicalize(self, text: str) -> tuple[str, Node]:
        """Check the formatter's output, and repeat with its canonical form until that no longer changes."""
        for _ in range(MAX_CANONICAL_ROUNDS):
            check_canonical(text)
            tree, reformatted = self.parse(text)
            checked = self.check(tree, generated=GENERATED)
            # All of these have been moved out of the tree. If one of them occurs again, the SQL and the tree differ.
            if checked.hoistable or checked.prewheres or checked.qualify:
                break
            if reformatted == text:
                return text, tree
            text = reformatted
        return refuse("a query without a stable canonical form", "simplify it")


def _hoist(checked: CheckedTree) -> tuple[frozenset[str], Mapping[str, tuple[str, str | None]]]:
    """Remove FINAL and SAMPLE from the tree, move PREWHERE into WHERE, and qualify ambiguous names.

    Returns the names to read with FINAL, and those to sample with (ratio, offset). PREWHERE is
    reserved for the relation's tenant filter, which must run before any condition of the author.
    """
    final: set[str] = set()
    sample: dict[str, tuple[str, str | None]] = {}
    for name, tables in checked.hoistable.items():
        # A relation is bound once in a statement, so it is read with FINAL either everywhere or nowhere.
        modifiers = {_modifiers(t) for t in tables}
        if len(modifiers) > 1 or len(tables) < checked.reads[name]:
            refuse(
                f"reading `{name}` with FINAL or SAMPLE in one place and without it in another",
                "write it the same way everywhere, or set `final: true` on the datasource",
            )
        with_final, size, offset = modifiers.pop()
        final |= {name} if with_final else set()
        if size is not None:
            sample[name] = (size, offset)
        for table in tables:
            for key in ("final", "sample_size", "sample_offset"):
                table.pop(key, None)
    for select in checked.prewheres:
        conditions = [select.pop("prewhere"), *([select["where"]] if "where" in select else [])]
        select["where"] = conditions[0] if len(conditions) == 1 else _and(conditions)
    for identifier, owner in checked.qualify:
        identifier["name_parts"] = [owner, identifier["name"]]
        identifier["name"] = f"{owner}.{identifier['name']}"
    return frozenset(final), sample


def _modifiers(table: Node) -> tuple[bool, str | None, str | None]:
    """Whether a table is read with FINAL, its sample ratio, and the offset of the sample."""
    return bool(table.get("final")), _ratio(table.get("sample_size")), _ratio(table.get("sample_offset"))


def _ratio(node: Node | None) -> str | None:
    """A sample ratio as SQL. A number of rows is refused: the engine relates it to the rows of all tenants."""
    if node is None:
        return None
    denominator = node.get("denominator", "1")
    numerator = node["numerator"]
    # A number above 1 is a number of rows, not a share.
    if int(numerator) > int(denominator):
        refuse("SAMPLE of a number of rows", "write a share, as in SAMPLE 1 / 10")
    return f"{numerator}" if denominator == "1" else f"{numerator} / {denominator}"


def _and(conditions: list[Node]) -> Node:
    """The conjunction of conditions, as the parser would build it."""
    arguments = {"type": "ExpressionList", "children": conditions}
    return {"type": "Function", "name": "and", "arguments": arguments, "is_operator": True}


def _check_view(
    tree: Node,
    branch_trees: list[Node],
    leftmost_names: tuple[str | None, ...],
    final: frozenset[str],
    sample: Mapping[str, tuple[str, str | None]],
) -> None:
    """Refuse what a materialized view cannot be. A view sees only the rows of one insert."""
    if final or sample:
        _refuse_in_view("FINAL or SAMPLE", "a view sees the rows of one insert; remove it")
    if len(branch_trees) == 1 and shape.is_union(tree):
        _refuse_in_view("UNION DISTINCT, INTERSECT or EXCEPT at the top", "only UNION ALL can be split into views")
    for branch, leftmost in zip(branch_trees, leftmost_names, strict=True):
        select = shape.top(branch)
        if any(k in select for k in ("order_by", "order_by_all", "limit_length", "limit_offset")):
            _refuse_in_view(
                "ORDER BY or LIMIT at the top", "a target has its own order; sort and limit where it is read"
            )
        if leftmost is None:
            _refuse_in_view(
                "a query that does not read a datasource first", "put the datasource that feeds it first in FROM"
            )


def _refuse_in_view(what: str, hint: str) -> None:
    raise RookeryError(VIEW_SHAPE, f"{what} cannot be in a materialized node", hint=hint)
