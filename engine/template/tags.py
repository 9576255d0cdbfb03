"""Checks a template's tags before Jinja parses them: only `if`, `for`, `set` and their ends are allowed."""

from __future__ import annotations

from collections.abc import Iterator

from jinja2.ext import Extension
from jinja2.lexer import Token, TokenStream

from engine.errors import TEMPLATE, Code, nearest

_TAGS = frozenset({"if", "elif", "else", "for", "set", "break", "continue"})
_ENDS = {"endif": "if", "endfor": "for"}
_OTHER_TAGS = {
    "while": "loop with {% for i in range(n) %}",
    "try": "check values before you use them; an invalid value fails the request",
    "raw": "bind such text as a value: {{ '…' }}",
    **dict.fromkeys(
        ("include", "import", "from", "extends", "block", "macro", "call"), "write another node and read from it"
    ),
}


class SyntaxProblemError(Exception):
    """A construct that templates cannot use, with its line in the template."""

    def __init__(self, line: int, message: str, hint: str | None = None, code: Code = TEMPLATE) -> None:
        super().__init__(message)
        self.line, self.message, self.hint, self.code = line, message, hint, code


class TagFilter(Extension):
    """Rewrites the token stream: `{% end %}` closes the open block, comments disappear, other tags are refused."""

    def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
        """Yield the tokens for Jinja's parser. Raises SyntaxProblemError."""
        opened: list[tuple[str, int]] = []
        for token in stream:
            if token.type != "block_begin":
                yield token
                continue
            tag = next(stream)
            if tag.type == "name" and tag.value == "comment":
                self._skip_comment(stream, tag.lineno)
                continue
            yield token
            # Jinja needs `endif` and `endfor`. A stack of open blocks says which one `end` means.
            yield self._tag(tag, opened)
        if opened:
            name, line = opened[-1]
            raise SyntaxProblemError(line, f"`{{% {name} %}}` is never closed", "close it with {% end %}")

    def _skip_comment(self, stream: TokenStream, line: int) -> None:
        while (token := next(stream)).type != "block_end":
            if token.type == "eof":
                raise SyntaxProblemError(line, "`{% comment %}` is never closed", "close it with %}")

    def _tag(self, tag: Token, opened: list[tuple[str, int]]) -> Token:
        """Return the tag in Jinja's form, and update the stack of open blocks, each with its line."""
        name = str(tag.value)
        if name in ("end", *_ENDS):
            if not opened or (name != "end" and _ENDS[name] != opened[-1][0]):
                raise SyntaxProblemError(tag.lineno, f"`{{% {name} %}}` closes nothing")
            return Token(tag.lineno, "name", f"end{opened.pop()[0]}")
        if tag.type != "name" or name not in _TAGS:
            near = nearest(name, _TAGS | {"end", "comment"})
            hint = _OTHER_TAGS.get(name) or (f"did you mean {near}?" if near else "tags are if, for and set")
            raise SyntaxProblemError(tag.lineno, f"`{{% {name} %}}` is not supported", hint)
        if name in ("else", "elif") and opened and opened[-1][0] == "for":
            raise SyntaxProblemError(tag.lineno, f"`{{% {name} %}}` in a loop is not supported")
        if name in ("if", "for"):
            opened.append((name, tag.lineno))
        return tag
