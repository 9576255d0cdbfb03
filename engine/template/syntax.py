"""Reading a template: the tags of its blocks, and a walk over its syntax tree with a closed list of constructs.

What the walk does not know is refused. It renames calls to our functions, so that request names can never shadow
them, replaces the operators that need bounds by calls, and collects what is known about each parameter.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.lexer import Token, TokenStream

from engine.errors import TEMPLATE, Code, RookeryError
from engine.template.functions import TEMPLATE_FUNCTIONS, UNSUPPORTED
from engine.template.operators import METHODS
from engine.template.usage import IDENTIFIER_FUNCTIONS, TYPE_FUNCTIONS, Findings, declared_type
from engine.template.values import nearest

PREFIX = "rk_"
"""Names that begin so are ours; templates cannot use them."""
DRY = f"{PREFIX}dry"
"""The name that is true in dry runs."""
LOOP_ATTRIBUTES = frozenset({"index", "index0", "first", "last", "length"})
MAX_DEPTH = 100

_TAGS = frozenset({"if", "elif", "else", "for", "set", "break", "continue"})
_ENDS = {"endif": "if", "endfor": "for"}
_OTHER_TAGS = {
    "while": "loop with {% for i in range(n) %}",
    "try": "check values before they are used; a wrong value is answered with an error",
    "raw": "bind such text as a value: {{ '…' }}",
    **dict.fromkeys(("include", "import", "from", "extends", "block", "macro", "call"), "write a node and read it"),
}
_RESERVED = frozenset({"self", "super", "caller", "varargs", "kwargs", "loop", "true", "false", "none"})
_SIGNATURES = {name: inspect.signature(function) for name, function in TEMPLATE_FUNCTIONS.items()}


class SyntaxProblemError(Exception):
    """Something in a template that is refused, with the line of the template's text."""

    def __init__(self, line: int, message: str, hint: str | None = None, code: Code = TEMPLATE) -> None:
        super().__init__(message)
        self.line, self.message, self.hint, self.code = line, message, hint, code


class Blocks(Extension):
    """Closes the open block at `{% end %}`, drops `{% comment … %}`, and refuses tags that are not ours."""

    def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
        opened: list[tuple[str, int]] = []
        for token in stream:
            if token.type != "block_begin":
                yield token
                continue
            tag = next(stream)
            if tag.type == "name" and tag.value == "comment":
                self._skip(stream, tag.lineno)
                continue
            yield token
            yield self._tag(tag, opened)
        if opened:
            name, line = opened[-1]
            raise SyntaxProblemError(line, f"`{{% {name} %}}` is never closed", "close it with {% end %}")

    def _skip(self, stream: TokenStream, line: int) -> None:
        while (token := next(stream)).type != "block_end":
            if token.type == "eof":
                raise SyntaxProblemError(line, "`{% comment %}` has no end", "it ends with %}")

    def _tag(self, tag: Token, opened: list[tuple[str, int]]) -> Token:
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
            raise SyntaxProblemError(tag.lineno, f"`{{% {name} %}}` of a loop is not supported")
        if name in ("if", "for"):
            opened.append((name, tag.lineno))
        return tag


class Walk:
    """Checks and rewrites one template's tree."""

    def __init__(self) -> None:
        self.found = Findings()
        self._path: dict[int, bool] = {}
        self._local: set[str] = set()
        self._assigned: set[str] = set()
        self._outer: set[str] = set()
        self._loops = 0
        self._depth = 0
        self._conditional = 0
        self._tested = 0

    def template(self, tree: nodes.Template) -> None:
        self._statements(tree.body)

    # --- statements ---
    def _statements(self, body: list[nodes.Node]) -> None:
        for node in body:
            self._enter(node)
            if isinstance(node, nodes.Output):
                node.nodes = [n if isinstance(n, nodes.TemplateData) else self.expr(n) for n in node.nodes]
            elif isinstance(node, nodes.If):
                self._if(node)
            elif isinstance(node, nodes.For):
                self._for(node)
            elif isinstance(node, nodes.Assign):
                node.node = self.expr(node.node)
                self._set(node)
            elif not isinstance(node, nodes.Break | nodes.Continue) or not self._loops:
                self._refuse(node, f"`{type(node).__name__.lower()}` is not possible here")
            self._depth -= 1

    def _if(self, node: nodes.If) -> None:
        paths = self._tests(node)
        self._conditional += 1
        before, after, outer = self._local, [], self._path
        for body, path in zip((node.body, *(b.body for b in node.elif_), node.else_), paths, strict=True):
            self._local, self._path = set(before), path
            self._statements(body)
            after.append(self._local)
        # Only what every branch sets is certain to be set; the rest may still come from the request.
        self._local, self._path = set.intersection(*after), outer
        self._conditional -= 1

    def _tests(self, node: nodes.If) -> list[dict[int, bool]]:
        """Number the conditions of an `if`. Returns, for each branch and for `else`, the outcomes that lead there."""
        paths, past = [], dict(self._path)
        for position, branch in enumerate((node, *node.elif_)):
            self._conditional += position > 0
            test = self._test(branch.test)
            self._conditional -= position > 0
            more = position < len(node.elif_) or bool(node.else_)
            number = self.found.condition(past, more)
            # Requests evaluate the condition as it is; only dry runs ask which outcome is wanted.
            free = nodes.CondExpr(self._call("forced", [nodes.Const(number)], branch), nodes.Const(None), test)
            dry = self._call("arm", [nodes.Const(number), free], branch)
            branch.test = nodes.CondExpr(nodes.Name(DRY, "load", lineno=branch.lineno), dry, test)
            paths.append({**past, number: True})
            past = {**past, number: False}
        return [*paths, past]

    def _set(self, node: nodes.Assign) -> None:
        names = self._targets(node.target)
        for name in sorted(names & self._outer):
            message = f"`{name}` is set outside of this loop and cannot be set again inside it"
            self._refuse(node, message, "what a loop sets ends with its round; compute it in SQL")
        self._local = self._local | names
        self._assigned = self._assigned | names

    def _for(self, node: nodes.For) -> None:
        if node.recursive or node.else_:
            self._refuse(node, "`recursive` and `else` of a loop are not supported")
        node.iter = self._call("each", [self.expr(node.iter)], node)
        before = self._local, self._assigned, self._outer
        self._outer = self._assigned
        self._local = self._local | self._targets(node.target)
        self._loops += 1
        self._conditional += 1
        if node.test is not None:
            node.test = self._test(node.test)
        self._statements(node.body)
        self._loops -= 1
        self._conditional -= 1
        self._local, self._assigned, self._outer = before

    def _targets(self, target: nodes.Node) -> set[str]:
        names = target.items if isinstance(target, nodes.Tuple) else [target]
        found: set[str] = set()
        for name in names:
            if isinstance(name, nodes.Tuple):
                found |= self._targets(name)
            elif isinstance(name, nodes.Name):
                found.add(self._allowed(name))
            else:
                self._refuse(target, "only names can be set")
        return found

    # --- expressions ---
    def expr(self, node: nodes.Node) -> nodes.Expr:
        """The checked and rewritten form of an expression. Raises SyntaxProblemError for what is not allowed."""
        self._enter(node)
        handler = _EXPRESSIONS.get(type(node))
        if handler is None:
            what, hint = _NO.get(type(node).__name__, (f"`{type(node).__name__.lower()}`", None))
            self._refuse(node, f"{what} is not supported", hint)
        result = handler(self, node)
        self._depth -= 1
        return result

    def _test(self, node: nodes.Node) -> nodes.Expr:
        """An expression whose truth is asked: bare names in it may be absent."""
        self._tested += 1
        result = self.expr(node)
        self._tested -= 1
        return result

    def _leaf(self, node: nodes.Const) -> nodes.Expr:
        return node

    def _name(self, node: nodes.Name) -> nodes.Expr:
        name = self._allowed(node)
        if name not in self._local:
            use = self.found.use(name, node.lineno)
            use.needed |= not self._conditional and not self._tested
        return node

    def _allowed(self, node: nodes.Name) -> str:
        name = node.name
        if name in _RESERVED or name.lower().startswith((PREFIX, f"_{PREFIX}")) or not name.isascii():
            self._refuse(node, f"the name `{name[:80]}` cannot be used in a template")
        return name

    def _items(self, node: nodes.List | nodes.Tuple) -> nodes.Expr:
        node.items = [self.expr(item) for item in node.items]
        return node

    def _dict(self, node: nodes.Dict) -> nodes.Expr:
        for pair in node.items:
            pair.key, pair.value = self.expr(pair.key), self.expr(pair.value)
        return node

    def _both(self, node: nodes.BinExpr) -> nodes.Expr:
        node.left, node.right = self.expr(node.left), self.expr(node.right)
        return node

    def _either(self, node: nodes.BinExpr) -> nodes.Expr:
        node.left, node.right = self._test(node.left), self._test(node.right)
        return node

    def _one(self, node: nodes.UnaryExpr) -> nodes.Expr:
        node.node = self._test(node.node) if isinstance(node, nodes.Not) else self.expr(node.node)
        return node

    def _compare(self, node: nodes.Compare) -> nodes.Expr:
        self.found.compare(node, self._local)
        node.expr = self._test(node.expr)
        for operand in node.ops:
            operand.expr = self._test(operand.expr)
        return node

    def _conditional_expr(self, node: nodes.CondExpr) -> nodes.Expr:
        if node.expr2 is None:
            self._refuse(node, "`a if b` needs an `else`")
        node.test = self._test(node.test)
        self._conditional += 1
        node.expr1, node.expr2 = self.expr(node.expr1), self.expr(node.expr2)
        self._conditional -= 1
        return node

    def _concat(self, node: nodes.Concat) -> nodes.Expr:
        return self._call("concat", [self.expr(n) for n in node.nodes], node)

    def _getitem(self, node: nodes.Getitem) -> nodes.Expr:
        value = self.expr(node.node)
        if not isinstance(node.arg, nodes.Slice):
            return self._call("item", [value, self.expr(node.arg)], node)
        bounds = (node.arg.start, node.arg.stop, node.arg.step)
        return self._call("part", [value, *(self.expr(b or nodes.Const(None)) for b in bounds)], node)

    def _getattr(self, node: nodes.Getattr) -> nodes.Expr:
        if self._loops and isinstance(node.node, nodes.Name) and node.node.name == "loop":
            if node.attr in LOOP_ATTRIBUTES:
                return node
            self._refuse(node, f"`loop.{node.attr[:80]}` does not exist", ", ".join(sorted(LOOP_ATTRIBUTES)))
        self._refuse(
            node, f"attribute `.{node.attr[:80]}` is not available", "only the methods: " + ", ".join(METHODS)
        )
        return node

    def _is(self, node: nodes.Test) -> nodes.Expr:
        if node.name not in ("defined", "none", "None") or node.args or node.kwargs:
            self._refuse(node, f"`is {node.name[:80]}` is not supported", "is defined, is None")
        call = self._call("fn_defined", [self._test(node.node)], node)
        return call if node.name == "defined" else nodes.Not(call, lineno=node.lineno)

    # --- calls ---
    def _call(self, name: str, args: list[nodes.Expr], at: nodes.Node) -> nodes.Call:
        callee = nodes.Name(PREFIX + name, "load", lineno=at.lineno)
        return nodes.Call(callee, args, [], None, None, lineno=at.lineno)

    def _any_call(self, node: nodes.Call) -> nodes.Expr:
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            self._refuse(node, "`*` and `**` arguments are not supported")
        if isinstance(node.node, nodes.Getattr):
            return self._method(node, node.node)
        callee = node.node
        if not isinstance(callee, nodes.Name):
            self._refuse(node, "only functions can be called")
        name = callee.name
        self._known(node, name)
        self.found.names_columns |= name in IDENTIFIER_FUNCTIONS | {"sql_and"}
        self._declare(node, name)
        result = self._call(f"fn_{name}", self._arguments(node, name), node)
        self._conditional += 1
        result.kwargs = [nodes.Keyword(k.key, self.expr(k.value), lineno=k.lineno) for k in node.kwargs]
        self._conditional -= 1
        return result

    def _arguments(self, node: nodes.Call, name: str) -> list[nodes.Expr]:
        """Positional arguments. A parameter as the first one of some functions may be absent."""
        lenient = name in TYPE_FUNCTIONS | IDENTIFIER_FUNCTIONS | {"defined"}
        lenient |= name == "split_to_array" and len(node.args) + len(node.kwargs) > 1
        if not lenient:
            return [self.expr(argument) for argument in node.args]
        first = [self._test(argument) for argument in node.args[:1]]
        self._conditional += 1
        rest = [self.expr(argument) for argument in node.args[1:]]
        self._conditional -= 1
        return first + rest

    def _known(self, node: nodes.Call, name: str) -> None:
        if name in UNSUPPORTED:
            self._refuse(node, f"`{name}()` is not supported", UNSUPPORTED[name])
        if name not in TEMPLATE_FUNCTIONS:
            near = nearest(name, TEMPLATE_FUNCTIONS)
            self._refuse(node, f"unknown function `{name[:80]}`", f"did you mean `{near}`?" if near else None)
        try:
            _SIGNATURES[name].bind(None, *node.args, **{k.key: k.value for k in node.kwargs})
        except TypeError as exc:
            self._refuse(node, f"{name}(): {str(exc)[:200]}")

    def _method(self, node: nodes.Call, callee: nodes.Getattr) -> nodes.Expr:
        if callee.attr not in METHODS or node.kwargs:
            near = nearest(callee.attr, METHODS)
            hint = f"did you mean `{near}`?" if near else "methods are " + ", ".join(METHODS)
            self._refuse(node, f"unknown method `{callee.attr[:80]}`", hint)
        args = [nodes.Const(callee.attr), self.expr(callee.node), *(self.expr(a) for a in node.args)]
        return self._call("method", args, node)

    def _declare(self, node: nodes.Call, function: str) -> None:
        """Note what a type function says about the parameter that it is called with."""
        if function == "Array" and len(node.args) > 1 and isinstance(node.args[1], nodes.Name):
            # `Array(x, String)`, without quotes, is common and means the same.
            name = node.args[1].name
            node.args[1] = nodes.Const(name, lineno=node.lineno) if name in TYPE_FUNCTIONS else node.args[1]
        try:
            type = declared_type(node, function)
        except RookeryError as exc:
            self._refuse(node, exc.message, exc.hint)
        subject = node.args[0] if type and node.args else None
        if type is None or not isinstance(subject, nodes.Name) or self._allowed(subject) in self._local:
            return
        self.found.declare(subject.name, type, node, function, certain=not self._conditional)

    # --- refusals ---
    def _enter(self, node: nodes.Node) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._refuse(node, f"nested more than {MAX_DEPTH} deep")

    def _refuse(self, node: nodes.Node, message: str, hint: str | None = None, code: Code = TEMPLATE) -> NoReturn:
        raise SyntaxProblemError(node.lineno, message, hint, code)


_NO = {
    "Filter": ("a filter (`|`)", "use functions, or the SQL's own"),
    "Pow": ("`**`", "compute it in SQL"),
}
_EXPRESSIONS: dict[type, Callable[[Walk, Any], nodes.Expr]] = {
    nodes.Const: Walk._leaf,
    nodes.TemplateData: Walk._leaf,
    nodes.Name: Walk._name,
    nodes.List: Walk._items,
    nodes.Tuple: Walk._items,
    nodes.Dict: Walk._dict,
    **dict.fromkeys((nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod), Walk._both),
    **dict.fromkeys((nodes.And, nodes.Or), Walk._either),
    **dict.fromkeys((nodes.Not, nodes.Neg, nodes.Pos), Walk._one),
    nodes.Compare: Walk._compare,
    nodes.CondExpr: Walk._conditional_expr,
    nodes.Concat: Walk._concat,
    nodes.Getitem: Walk._getitem,
    nodes.Getattr: Walk._getattr,
    nodes.Test: Walk._is,
    nodes.Call: Walk._any_call,
}
