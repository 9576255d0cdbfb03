"""Small faults in Python source, one at a time, such as a careless change would introduce."""

from __future__ import annotations

import ast
import copy
import types
from collections.abc import Callable, Iterator

Change = Callable[[ast.AST], list[ast.AST]]


def mutants(source: str, functions: set[str]) -> Iterator[tuple[str, str]]:
    """Every source with one fault inside the named functions, and what the fault is."""
    tree = _without_docstrings(ast.parse(source))
    places = [
        (function, node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and function.name in functions
        for node in ast.walk(function)
    ]
    for function, node in places:
        assert isinstance(function, ast.FunctionDef)
        for number, _ in enumerate(_faults(node)):
            changed = copy.deepcopy(tree)
            (twin,) = [n for n in ast.walk(changed) if _same(n, node)][:1]
            fault = _faults(twin)[number]
            made = _Replace(twin, fault).visit(changed)
            text = ast.unparse(ast.fix_missing_locations(made))
            if text != ast.unparse(tree):
                yield (
                    f"{function.name}:{getattr(node, 'lineno', 0)}: {ast.unparse(node)[:60]} -> {_text(fault)}",
                    text,
                )


def _without_docstrings(tree: ast.Module) -> ast.Module:
    """A changed docstring is not a fault."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and ast.get_docstring(function) is not None and function.body[1:]:
            del function.body[0]
    return tree


def load(source: str, like: types.ModuleType) -> types.ModuleType:
    """A module from changed source."""
    made = types.ModuleType(f"{like.__name__}_changed")
    made.__dict__["__package__"] = like.__package__
    # Dataclasses look their module up.
    import sys

    sys.modules[made.__name__] = made
    exec(compile(source, made.__name__, "exec"), made.__dict__)
    return made


def _same(one: ast.AST, other: ast.AST) -> bool:
    place = ("lineno", "col_offset", "end_lineno", "end_col_offset")
    return type(one) is type(other) and all(getattr(one, p, None) == getattr(other, p, None) for p in place)


def _text(fault: ast.AST | None) -> str:
    return "removed" if fault is None else ast.unparse(fault)[:60]


def _faults(node: ast.AST) -> list[ast.AST]:
    faults: list[ast.AST] = []
    if isinstance(node, ast.Compare | ast.BoolOp):
        faults.append(ast.UnaryOp(ast.Not(), node))
    if isinstance(node, ast.BoolOp):
        faults += node.values
    if isinstance(node, ast.If | ast.IfExp):
        for value in (True, False):
            twin = copy.copy(node)
            twin.test = ast.Constant(value)
            faults.append(twin)
    if isinstance(node, ast.List | ast.Tuple) and isinstance(getattr(node, "ctx", None), ast.Load) and node.elts:
        for number in range(len(node.elts)):
            faults.append(type(node)(node.elts[:number] + node.elts[number + 1 :], ast.Load()))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        faults += [node.left, node.right]
    if isinstance(node, ast.Call) and node.keywords:
        for number in range(len(node.keywords)):
            keywords = node.keywords[:number] + node.keywords[number + 1 :]
            faults.append(ast.Call(node.func, node.args, keywords))
    if isinstance(node, ast.AugAssign):
        faults.append(ast.Pass())
    if isinstance(node, ast.JoinedStr):
        for old, new in ((" = ", " != "), (" = ", " >= "), ("NOT ", ""), (" != ", " = "), ("PREWHERE", "WHERE")):
            if any(isinstance(v, ast.Constant) and old in v.value for v in node.values):
                faults.append(ast.JoinedStr([_put(v, old, new) for v in node.values]))
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value:
        faults.append(ast.Constant(""))
    return faults


def _put(node: ast.expr, old: str, new: str) -> ast.expr:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return ast.Constant(node.value.replace(old, new))
    return node


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self._old, self._new, self._done = old, new, False

    def visit(self, node: ast.AST) -> ast.AST:
        if node is self._old and not self._done:
            self._done = True
            return self._new
        found: ast.AST = self.generic_visit(node)
        return found
