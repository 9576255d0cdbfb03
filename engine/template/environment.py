"""Compiles a node's template, SQL with `{{ }}` and `{% %}`, and renders it for each request with every value bound.

The template engine is Jinja2 in its sandbox. Templates cannot use Jinja's functions, filters and tags, or Python's
attributes: before anything is compiled, `tags.TagFilter` and `syntax.TemplateChecker` check the tags and the tree
against allow-lists of constructs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

from jinja2 import Template as JinjaTemplate
from jinja2 import TemplateSyntaxError, pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from engine.errors import IDENTIFIER, MISSING_PARAMETER, TEMPLATE, Place, RookeryError
from engine.template.date_times import UTC
from engine.template.functions import TEMPLATE_FUNCTIONS, UNSUPPORTED
from engine.template.operators import (
    binary,
    branch_outcome,
    concat,
    is_forced,
    item,
    iterate,
    method,
    slice_of,
    unary,
)
from engine.template.parameters import ParameterSpec
from engine.template.syntax import DRY, LOOP_ATTRIBUTES, PREFIX, TemplateChecker
from engine.template.tags import SyntaxProblemError, TagFilter
from engine.template.usage import Condition, TemplateUsage
from engine.template.values import (
    ABSENT,
    Binder,
    Branches,
    MissingError,
    Parameter,
    PipeError,
    Rendering,
    emit,
    missing_error,
)

MAX_OUTPUT_BYTES = 64 * 1024
"""Maximum length of a template, and of its result, in bytes of UTF-8."""
_SYNTAX = ("{{", "{%", "{#")

Position = Callable[[int, int], Place]
"""Maps a line and a column of a node's SQL to their place in the file."""


class _Function:
    """A function that templates may call. The sandbox calls nothing else."""

    __slots__ = ("run",)

    def __init__(self, run: Callable[..., Any]) -> None:
        self.run = run


_CALLABLE = {f"{PREFIX}fn_{name}": _Function(function) for name, function in TEMPLATE_FUNCTIONS.items()}
_CALLABLE |= {
    PREFIX + function.__name__: _Function(function)
    # The checker replaces operators, loops and conditions with calls of these functions.
    for function in (iterate, item, slice_of, concat, method, is_forced, branch_outcome)
}


class _Context(Context):
    """Resolves each name to a template function or to a parameter of the request, so that names are never
    undefined.
    """

    run: Rendering

    def resolve_or_missing(self, key: str) -> Any:
        if key in _CALLABLE:
            return _CALLABLE[key]
        if key == DRY:
            return self.run.is_dry_run
        raw = self.run.request.get(key, ABSENT)
        return Parameter(key, ABSENT if raw is None else raw)


@pass_context
def _finalize(context: Context, value: Any) -> Markup:
    # Because it takes the context, Jinja also calls it at run time for constants. Markup marks text that is already
    # SQL. It is created only here, so autoescaping never sees a value from a request.
    assert isinstance(context, _Context)
    return Markup(emit(context.run, value))


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox with operators, calls and attributes replaced by rookery's own."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})
    intercepted_unops = frozenset({"+", "-"})
    context_class = _Context

    def call(self, context: Context, target: Any, /, *args: Any, **kwargs: Any) -> Any:
        if type(target) is not _Function or not isinstance(context, _Context):
            raise SecurityError("not callable")
        kwargs.pop("_loop_vars", None)
        kwargs.pop("_block_vars", None)
        return target.run(context.run, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        assert isinstance(context, _Context)
        return binary(context.run, operator, left, right)

    def call_unop(self, context: Context, operator: str, arg: Any) -> Any:
        return unary(operator, arg)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, LoopContext) and attribute in LOOP_ATTRIBUTES:
            return getattr(obj, attribute)
        raise SecurityError("no attributes")

    def getitem(self, obj: Any, argument: Any) -> Any:
        raise SecurityError("no items")


def _never(value: object) -> bool:
    return False


def _environment() -> _Environment:
    environment = _Environment(
        extensions=[TagFilter, "jinja2.ext.loopcontrols"],
        autoescape=True,
        finalize=_finalize,
        keep_trailing_newline=True,
        optimized=False,
        cache_size=0,
    )
    environment.filters.clear()
    environment.globals.clear()
    # The checker replaces these tests with calls, but the parser refuses names that it does not know.
    environment.tests.clear()
    for name in ("defined", "none", "None"):
        environment.tests[name] = _never
    return environment


_ENVIRONMENT = _environment()


@dataclass(frozen=True, slots=True)
class Template:
    """The compiled template of one node. It is immutable, so requests in several threads can render it at the same
    time.
    """

    text: str
    """The template's source, without Tinybird's leading `%`."""
    parameters: tuple[ParameterSpec, ...] = ()
    """The parameters that the template uses, in the order of their first use."""
    _compiled: JinjaTemplate | None = field(default=None, compare=False, repr=False)
    """The compiled template; None if the SQL has no template syntax."""
    _where: Callable[[int], Place | None] = field(default=lambda _: None, compare=False, repr=False)
    """Maps a line of `text` to its place in the file."""
    _usage: TemplateUsage = field(default_factory=TemplateUsage, compare=False, repr=False)

    @property
    def is_static(self) -> bool:
        """Whether the SQL has no template syntax, so that rendering returns it unchanged."""
        return self._compiled is None

    def render(self, request: Mapping[str, object], binder: Binder, columns: frozenset[str], zone: str = UTC) -> str:
        """Return the SQL for one request and add its values to `binder`. `columns` are the names it may use.

        `zone` is the workspace's zone, for times without an offset. Raises MISSING_PARAMETER with all missing names,
        BAD_PARAMETER, IDENTIFIER, CUSTOM (also as `PipeError`), and TEMPLATE for the author's mistakes.
        """
        if self._compiled is None:
            return self.text
        return self._run(self._compiled, Rendering(request, binder, columns, zone=zone))

    @property
    def identifiers(self) -> frozenset[str]:
        """The parameters whose values are names of columns."""
        return frozenset(self._usage.identifiers)

    @property
    def names_columns(self) -> bool:
        """Whether the template prints names of columns, with `column()`, `columns()`, `symbol()` or `sql_and()`."""
        return self._usage.names_columns

    @property
    def type_conflicts(self) -> tuple[tuple[Place | None, str], ...]:
        """Parameters that are declared with two types, each as a place and a message."""
        return tuple((self._where(line), text) for line, text in self._usage.type_conflicts)

    def place_of(self, parameter: str) -> Place | None:
        """Return where a parameter of the template is declared or first used."""
        return self._where(self._usage.uses[parameter].line)

    @property
    def compared(self) -> tuple[tuple[str, Any], ...]:
        """Pairs of a parameter and a constant that it is compared with."""
        return tuple(self._usage.compared)

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The template's conditions; a condition's number is its position."""
        return tuple(self._usage.conditions)

    def dry_run(
        self,
        request: Mapping[str, object],
        fallback: Mapping[str, object],
        binder: Binder,
        columns: frozenset[str] | None,
        branches: Branches,
    ) -> str:
        """Render without a caller. Parameters that turn out to be missing from `request` come from `fallback`.

        `columns` is None while the columns are not known. Raises the author's mistakes.
        """
        if self._compiled is None:
            return self.text
        values = dict(request)
        start = binder.mark()
        # Which parameters are needed depends on the branches taken, so render again until none is missing.
        while True:
            binder.rewind(start)
            run = Rendering(values, binder, columns, branches)
            try:
                return self._run(self._compiled, run)
            except RookeryError as exc:
                added = {n: fallback[n] for n in run.missing if n in fallback and n not in values}
                if exc.code is not MISSING_PARAMETER or not added:
                    raise
                values |= added

    def _run(self, compiled: JinjaTemplate, run: Rendering) -> str:
        context = _Context(_ENVIRONMENT, {}, None, {})
        context.run = run
        try:
            text = _bounded(compiled.root_render_func(context))
        except MissingError as exc:
            run.missing[str(exc)] = None
        except RookeryError as exc:
            if not run.missing:
                raise self._placed(exc, compiled) from exc.__cause__
        except Exception as exc:
            # An expression can raise any exception that Jinja or Python knows: report each as the author's mistake.
            if not run.missing:
                raise self._translated(exc, compiled) from exc
        if run.missing:
            raise missing_error(run.missing)
        return text

    def _placed(self, exc: RookeryError, compiled: JinjaTemplate) -> RookeryError:
        if exc.place is None and exc.code in (TEMPLATE, IDENTIFIER):
            exc.place = self._where(_line(exc.__traceback__, compiled))
        return exc

    def _translated(self, exc: Exception, compiled: JinjaTemplate) -> RookeryError:
        message, hint = "expression cannot be evaluated", None
        if isinstance(exc, TypeError | AttributeError):
            message = "the types of these values cannot be combined"
            hint = "give request parameters a type, for example Int32(x)"
        elif isinstance(exc, ZeroDivisionError):
            message = "division by zero"
        place = self._where(_line(exc.__traceback__, compiled))
        return RookeryError(TEMPLATE, message, hint=hint, place=place, detail=repr(exc)[:1000])


def _bounded(chunks: Iterator[str]) -> str:
    """Join the rendered chunks. Raises TEMPLATE as soon as they exceed MAX_OUTPUT_BYTES."""
    size, accepted = 0, []
    for chunk in chunks:
        size += len(chunk)
        if size > MAX_OUTPUT_BYTES:
            break
        accepted.append(chunk)
    text = "".join(accepted)
    if size > MAX_OUTPUT_BYTES or (not text.isascii() and len(text.encode()) > MAX_OUTPUT_BYTES):
        raise RookeryError(TEMPLATE, f"the rendered text is longer than {MAX_OUTPUT_BYTES} bytes")
    return text


def _line(trace: TracebackType | None, compiled: JinjaTemplate) -> int:
    """Return the template's line that raised, from the innermost frame of its compiled code."""
    line = 1
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == compiled.filename:
            line = compiled.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return line


def compile_template(sql: str, place: Place | None = None, position: Position | None = None) -> Template:
    """Compile a node's SQL. `position` maps its lines to the file; without it, `place` is that of the first line.

    Raises TEMPLATE at the line of the mistake.
    """
    text, dropped = _without_marker(sql)
    where = _locator(dropped, place, position)
    if not any(mark in text for mark in _SYNTAX):
        return Template(text, _where=where)
    try:
        if len(text.encode()) > MAX_OUTPUT_BYTES:
            raise RookeryError(TEMPLATE, f"a template is at most {MAX_OUTPUT_BYTES} bytes long", place=where(1))
        return _compiled(text, where)
    except SyntaxProblemError as exc:
        raise RookeryError(exc.code, exc.message, hint=exc.hint, place=where(exc.line)) from None
    except TemplateSyntaxError as exc:
        raise RookeryError(TEMPLATE, f"template syntax: {exc.message}", place=where(exc.lineno)) from exc
    except RookeryError:
        raise
    except Exception as exc:
        # Authors can write anything, and Jinja and Python's compiler may raise any exception.
        raise RookeryError(TEMPLATE, "the template cannot be read", place=where(1), detail=repr(exc)[:1000]) from exc


def _compiled(text: str, where: Callable[[int], Place | None]) -> Template:
    for line, token, _ in _ENVIRONMENT.lex(text):
        if token == "raw_begin":
            raise SyntaxProblemError(line, "`{% raw %}` is not supported", "bind such text as a value: {{ '…' }}")
    tree = _ENVIRONMENT.parse(text)
    checker = TemplateChecker()
    checker.template(tree)
    tree.set_environment(_ENVIRONMENT)
    compiled = _ENVIRONMENT.from_string(tree)
    return Template(text, checker.usage.specs(), compiled, where, checker.usage)


def _without_marker(sql: str) -> tuple[str, int]:
    """Return the template without Tinybird's leading `%` and its newline, and the number of lines removed."""
    start = len(sql) - len(sql.lstrip())
    if sql[start : start + 1] != "%":
        return sql, 0
    after_marker = sql[start + 1 :]
    head, newline, tail = after_marker.partition("\n")
    text = tail if newline and not head.strip() else after_marker
    return text, sql[: len(sql) - len(text)].count("\n")


def _locator(dropped: int, place: Place | None, position: Position | None) -> Callable[[int], Place | None]:
    """Return a function from a line of the template, `dropped` lines after the file's, to its place."""

    def where(line: int) -> Place | None:
        if position is not None:
            return position(line + dropped, 1)
        if place is None or place.line is None:
            return place
        return replace(place, line=place.line + dropped + line - 1, column=None)

    return where


__all__ = ["TEMPLATE_FUNCTIONS", "UNSUPPORTED", "Binder", "PipeError", "Template", "compile_template"]
