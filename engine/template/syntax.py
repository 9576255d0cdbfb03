"""Checks a template's syntax tree against an allow-list of constructs, and refuses everything else.

The checker prefixes calls of template functions, so that no parameter of a request can shadow them. It replaces
operators that need limits with calls, and records how the template uses each parameter.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NoReturn

from jinja2 import nodes

from engine.errors import TEMPLATE, Code, RookeryError, nearest
from engine.template.functions import TEMPLATE_FUNCTIONS, UNSUPPORTED
from engine.template.operators import METHODS
from engine.template.tags import SyntaxProblemError
from engine.template.usage import IDENTIFIER_FUNCTIONS, TYPE_FUNCTIONS, TemplateUsage, declared_type

PREFIX = "rk_"
"""The prefix of rookery's own names, which templates cannot use."""
DRY = f"{PREFIX}dry"
"""The name of the variable that is true in dry runs."""
LOOP_ATTRIBUTES = frozenset({"index", "index0", "first", "last", "length"})
"""Jinja's `loop` variable has only these attributes in templates."""
MAX_DEPTH = 100
"""Maximum nesting of a template's statements and expressions."""

_RESERVED = frozenset({"self", "super", "caller", "varargs", "kwargs", "loop", "true", "false", "none"})
_SIGNATURES = {name: inspect.signature(function) for name, function in TEMPLATE_FUNCTIONS.items()}


class TemplateChecker:
    """Checks and rewrites one template's tree, and collects its `usage`."""

    def __init__(self) -> None:
        self.usage = TemplateUsage()
        # The outcomes of conditions that lead to the current node, by number of the condition.
        self._path: dict[int, bool] = {}
        # Names that are certainly set at this point, so they are not parameters.
        self._local: set[str] = set()
        # Names that the template has set so far, and those of them that were set before the current loop.
        self._assigned: set[str] = set()
        self._outer: set[str] = set()
        # The numbers of loops, nodes, conditional parts and tested expressions around the current node.
        self._loops = 0
        self._depth = 0
        self._conditional = 0
        self._tested = 0

    def template(self, tree: nodes.Template) -> None:
        """Check the tree and rewrite it in place. Raises SyntaxProblemError for what templates cannot use."""
        self._statements(tree.body)

    # --- statements ---
    def _statements(self, body: list[nodes.Node]) -> None:
        """Check the statements of a block in order, and rewrite their expressions."""
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
                self._refuse(node, f"`{type(node).__name__.lower()}` is not allowed here")
            self._depth -= 1

    def _if(self, node: nodes.If) -> None:
        """Check an `if`. Each branch starts with the names that are set before it."""
        paths = self._tests(node)
        self._conditional += 1
        before, after, outer = self._local, [], self._path
        for body, path in zip((node.body, *(b.body for b in node.elif_), node.else_), paths, strict=True):
            self._local, self._path = set(before), path
            self._statements(body)
            after.append(self._local)
        # Only names that every branch sets are certainly set. Others may still be parameters of the request.
        self._local, self._path = set.intersection(*after), outer
        self._conditional -= 1

    def _tests(self, node: nodes.If) -> list[dict[int, bool]]:
        """Number the conditions of an `if`. Returns the outcomes that lead to each branch, and to `else`."""
        paths, past = [], dict(self._path)
        for position, branch in enumerate((node, *node.elif_)):
            self._conditional += position > 0
            test = self._test(branch.test)
            self._conditional -= position > 0
            has_else = position < len(node.elif_) or bool(node.else_)
            number = self.usage.condition(past, has_else)
            # Requests evaluate `test` alone. Dry runs record its outcome, and do not evaluate it if it is forced:
            # `branch_outcome(number, None if is_forced(number) else test) if DRY else test`
            unforced = nodes.CondExpr(self._call("is_forced", [nodes.Const(number)], branch), nodes.Const(None), test)
            dry = self._call("branch_outcome", [nodes.Const(number), unforced], branch)
            branch.test = nodes.CondExpr(nodes.Name(DRY, "load", lineno=branch.lineno), dry, test)
            paths.append({**past, number: True})
            past = {**past, number: False}
        return [*paths, past]

    def _set(self, node: nodes.Assign) -> None:
        names = self._targets(node.target)
        for name in sorted(names & self._outer):
            # Jinja would accept this, and silently discard the value at the end of the iteration.
            message = f"`{name}` is set outside of this loop and cannot be set again inside it"
            self._refuse(node, message, "a value set in a loop lasts for one iteration; compute it in SQL")
        self._local = self._local | names
        self._assigned = self._assigned | names

    def _for(self, node: nodes.For) -> None:
        """Check a loop, and count its iterations at run time by `iterate`."""
        if node.recursive or node.else_:
            self._refuse(node, "`recursive` and `else` of a loop are not supported")
        node.iter = self._call("iterate", [self.expr(node.iter)], node)
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
        """The names that a `set` or `for` assigns. Refuses anything but names and tuples of names."""
        names = target.items if isinstance(target, nodes.Tuple) else [target]
        allowed: set[str] = set()
        for name in names:
            if isinstance(name, nodes.Tuple):
                allowed |= self._targets(name)
            elif isinstance(name, nodes.Name):
                allowed.add(self._allowed(name))
            else:
                self._refuse(target, "only names can be set")
        return allowed

    # --- expressions ---
    def expr(self, node: nodes.Node) -> nodes.Expr:
        """Return the checked and rewritten expression. Raises SyntaxProblemError if templates cannot use it."""
        self._enter(node)
        handler = _EXPRESSIONS.get(type(node))
        if handler is None:
            construct, hint = _UNSUPPORTED_HINTS.get(type(node).__name__, (f"`{type(node).__name__.lower()}`", None))
            self._refuse(node, f"{construct} is not supported", hint)
        result = handler(self, node)
        self._depth -= 1
        return result

    def _test(self, node: nodes.Node) -> nodes.Expr:
        """Check an expression that is only tested for truth, so that parameters in it may be absent."""
        self._tested += 1
        result = self.expr(node)
        self._tested -= 1
        return result

    def _constant(self, node: nodes.Const) -> nodes.Expr:
        """A constant needs no check: its value is text, a number, a boolean or None."""
        return node

    def _name(self, node: nodes.Name) -> nodes.Expr:
        """Check a name. Unless the template has set it, it is a parameter of the request."""
        name = self._allowed(node)
        if name not in self._local:
            use = self.usage.use(name, node.lineno)
            use.needed |= not self._conditional and not self._tested
        return node

    def _allowed(self, node: nodes.Name) -> str:
        """Return a name. Refuses those that Jinja or rookery itself uses."""
        name = node.name
        if name in _RESERVED or name.lower().startswith((PREFIX, f"_{PREFIX}")) or not name.isascii():
            self._refuse(node, f"the name `{name[:80]}` cannot be used in a template")
        return name

    def _items(self, node: nodes.List | nodes.Tuple) -> nodes.Expr:
        """Check each item of a list or tuple."""
        node.items = [self.expr(item) for item in node.items]
        return node

    def _dict(self, node: nodes.Dict) -> nodes.Expr:
        for pair in node.items:
            pair.key, pair.value = self.expr(pair.key), self.expr(pair.value)
        return node

    def _binary(self, node: nodes.BinExpr) -> nodes.Expr:
        """Check an arithmetic operation. Operators are bounded at run time (`operators.binary`)."""
        node.left, node.right = self.expr(node.left), self.expr(node.right)
        return node

    def _logical(self, node: nodes.BinExpr) -> nodes.Expr:
        """Check `and` or `or`, whose operands are only tested."""
        node.left, node.right = self._test(node.left), self._test(node.right)
        return node

    def _unary(self, node: nodes.UnaryExpr) -> nodes.Expr:
        node.node = self._test(node.node) if isinstance(node, nodes.Not) else self.expr(node.node)
        return node

    def _compare(self, node: nodes.Compare) -> nodes.Expr:
        """Check a comparison. A parameter in it may be absent."""
        self.usage.compare(node, self._local)
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
        """Replace `a ~ b` by a call that limits the size of its result."""
        return self._call("concat", [self.expr(n) for n in node.nodes], node)

    def _getitem(self, node: nodes.Getitem) -> nodes.Expr:
        """Replace `a[b]` by a call that allows text, lists and objects only."""
        value = self.expr(node.node)
        if not isinstance(node.arg, nodes.Slice):
            return self._call("item", [value, self.expr(node.arg)], node)
        bounds = (node.arg.start, node.arg.stop, node.arg.step)
        return self._call("slice_of", [value, *(self.expr(b or nodes.Const(None)) for b in bounds)], node)

    def _getattr(self, node: nodes.Getattr) -> nodes.Expr:
        """Allow the attributes of `loop`. Everything else could lead to the attributes of Python objects."""
        if self._loops and isinstance(node.node, nodes.Name) and node.node.name == "loop":
            if node.attr in LOOP_ATTRIBUTES:
                return node
            self._refuse(node, f"`loop.{node.attr[:80]}` does not exist", ", ".join(sorted(LOOP_ATTRIBUTES)))
        self._refuse(
            node, f"attribute `.{node.attr[:80]}` is not available", "only the methods: " + ", ".join(METHODS)
        )
        return node

    def _is_test(self, node: nodes.Test) -> nodes.Expr:
        """Replace `is defined` and `is None` by a call of `defined`."""
        if node.name not in ("defined", "none", "None") or node.args or node.kwargs:
            self._refuse(node, f"`is {node.name[:80]}` is not supported", "is defined, is None")
        call = self._call("fn_defined", [self._test(node.node)], node)
        return call if node.name == "defined" else nodes.Not(call, lineno=node.lineno)

    # --- calls ---
    def _call(self, name: str, args: list[nodes.Expr], at: nodes.Node) -> nodes.Call:
        callee = nodes.Name(PREFIX + name, "load", lineno=at.lineno)
        return nodes.Call(callee, args, [], None, None, lineno=at.lineno)

    def _any_call(self, node: nodes.Call) -> nodes.Expr:
        """Check a call of a template function or a method, and rewrite it to a name that no parameter can hide."""
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            self._refuse(node, "`*` and `**` arguments are not supported")
        if isinstance(node.node, nodes.Getattr):
            return self._method(node, node.node)
        callee = node.node
        if not isinstance(callee, nodes.Name):
            self._refuse(node, "only functions can be called")
        name = callee.name
        self._known(node, name)
        self.usage.names_columns |= name in IDENTIFIER_FUNCTIONS | {"sql_and"}
        self._declare(node, name)
        result = self._call(f"fn_{name}", self._arguments(node, name), node)
        self._conditional += 1
        result.kwargs = [nodes.Keyword(k.key, self.expr(k.value), lineno=k.lineno) for k in node.kwargs]
        self._conditional -= 1
        return result

    def _arguments(self, node: nodes.Call, name: str) -> list[nodes.Expr]:
        """Check positional arguments. Some functions accept an absent parameter as their first one."""
        if name == "defined" and isinstance(node.args[0] if node.args else None, nodes.Const):
            self._refuse(
                node, "defined() takes the name of a parameter, not a value", "remove the quotes: defined(x)"
            )
        lenient = name in TYPE_FUNCTIONS | IDENTIFIER_FUNCTIONS | {"defined"}
        lenient |= name == "split_to_array" and len(node.args) + len(node.kwargs) > 1
        if not lenient:
            return [self.expr(argument) for argument in node.args]
        first = [self._test(argument) for argument in node.args[:1]]
        self._conditional += 1
        others = [self.expr(argument) for argument in node.args[1:]]
        self._conditional -= 1
        return first + others

    def _known(self, node: nodes.Call, name: str) -> None:
        """Refuse a function that does not exist, or arguments that it does not take."""
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
        """Replace a method of text or objects by a call that looks the name up in METHODS."""
        if callee.attr not in METHODS or node.kwargs:
            near = nearest(callee.attr, METHODS)
            hint = f"did you mean `{near}`?" if near else "methods are " + ", ".join(METHODS)
            self._refuse(node, f"unknown method `{callee.attr[:80]}`", hint)
        args = [nodes.Const(callee.attr), self.expr(callee.node), *(self.expr(a) for a in node.args)]
        return self._call("method", args, node)

    def _declare(self, node: nodes.Call, function: str) -> None:
        """Record what a type function's call declares about its parameter."""
        if function == "Array" and len(node.args) > 1 and isinstance(node.args[1], nodes.Name):
            # `Array(x, String)`, without quotes, is common and means the same as with quotes.
            name = node.args[1].name
            node.args[1] = nodes.Const(name, lineno=node.lineno) if name in TYPE_FUNCTIONS else node.args[1]
        try:
            type = declared_type(node, function)
        except RookeryError as exc:
            self._refuse(node, exc.message, exc.hint)
        subject = node.args[0] if type and node.args else None
        if type is None or not isinstance(subject, nodes.Name) or self._allowed(subject) in self._local:
            return
        self.usage.declare(subject.name, type, node, function, certain=not self._conditional)

    # --- refusals ---
    def _enter(self, node: nodes.Node) -> None:
        """Count one more level of nesting. Refuses more than MAX_DEPTH, which would exhaust the stack."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._refuse(node, f"the template is nested more than {MAX_DEPTH} levels deep")

    def _refuse(self, node: nodes.Node, message: str, hint: str | None = None, code: Code = TEMPLATE) -> NoReturn:
        raise SyntaxProblemError(node.lineno, message, hint, code)


_UNSUPPORTED_HINTS = {
    "Filter": ("a filter (`|`)", "use template functions or SQL functions"),
    "Pow": ("`**`", "compute it in SQL"),
}
_EXPRESSIONS: dict[type, Callable[[TemplateChecker, Any], nodes.Expr]] = {
    nodes.Const: TemplateChecker._constant,
    nodes.TemplateData: TemplateChecker._constant,
    nodes.Name: TemplateChecker._name,
    nodes.List: TemplateChecker._items,
    nodes.Tuple: TemplateChecker._items,
    nodes.Dict: TemplateChecker._dict,
    **dict.fromkeys((nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod), TemplateChecker._binary),
    **dict.fromkeys((nodes.And, nodes.Or), TemplateChecker._logical),
    **dict.fromkeys((nodes.Not, nodes.Neg, nodes.Pos), TemplateChecker._unary),
    nodes.Compare: TemplateChecker._compare,
    nodes.CondExpr: TemplateChecker._conditional_expr,
    nodes.Concat: TemplateChecker._concat,
    nodes.Getitem: TemplateChecker._getitem,
    nodes.Getattr: TemplateChecker._getattr,
    nodes.Test: TemplateChecker._is_test,
    nodes.Call: TemplateChecker._any_call,
}
