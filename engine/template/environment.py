"""Templates of nodes: text with `{{ }}` and `{% %}`, compiled once, rendered per request with every value bound.

The template engine is Jinja2 in its sandbox, but neither its functions, filters and tags nor Python's attributes are
reachable: `template_syntax` walks the tree with a closed list before anything is compiled.
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
from engine.template.operators import arm, binary, concat, each, forced, item, method, part, unary
from engine.template.parameters import ParameterSpec
from engine.template.syntax import DRY, LOOP_ATTRIBUTES, PREFIX, Blocks, SyntaxProblemError, Walk
from engine.template.usage import Condition, Findings
from engine.template.values import (
    ABSENT,
    Arms,
    Binder,
    MissingError,
    Parameter,
    PipeError,
    Rendering,
    emit,
    missing_error,
)

MAX_OUTPUT_BYTES = 64 * 1024
"""Longest rendered text, in bytes of UTF-8; also the longest template."""
_SYNTAX = ("{{", "{%", "{#")

Position = Callable[[int, int], Place]
"""Where a line and column of a node's SQL stand in its file."""


class _Function:
    """A function that templates may call; nothing else is callable."""

    __slots__ = ("run",)

    def __init__(self, run: Callable[..., Any]) -> None:
        self.run = run


_CALLABLE = {f"{PREFIX}fn_{name}": _Function(function) for name, function in TEMPLATE_FUNCTIONS.items()}
_CALLABLE |= {
    PREFIX + function.__name__: _Function(function)
    for function in (each, item, part, concat, method, forced, arm)  # in place of operators and conditions
}


class _Context(Context):
    """Names are our functions, or parameters of the request; nothing is undefined."""

    run: Rendering

    def resolve_or_missing(self, key: str) -> Any:
        if key in _CALLABLE:
            return _CALLABLE[key]
        if key == DRY:
            return self.run.sample
        raw = self.run.request.get(key, ABSENT)
        return Parameter(key, ABSENT if raw is None else raw)


@pass_context
def _finalize(context: Context, value: Any) -> Markup:
    # With the context it runs for constants too; its result is the only Markup there is.
    assert isinstance(context, _Context)
    return Markup(emit(context.run, value))


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with operators, calls and attributes of its own."""

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
    made = _Environment(
        extensions=[Blocks, "jinja2.ext.loopcontrols"],
        autoescape=True,
        finalize=_finalize,
        keep_trailing_newline=True,
        optimized=False,
        cache_size=0,
    )
    made.filters.clear()
    made.globals.clear()
    # The walk replaces these tests by calls; the parser only wants to know their names.
    made.tests.clear()
    for name in ("defined", "none", "None"):
        made.tests[name] = _never
    return made


_ENVIRONMENT = _environment()


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled node text. `is_static` says that it has no template syntax: rendering returns `text`."""

    text: str
    parameters: tuple[ParameterSpec, ...] = ()
    _compiled: JinjaTemplate | None = field(default=None, compare=False, repr=False)
    _where: Callable[[int], Place | None] = field(default=lambda _: None, compare=False, repr=False)
    _found: Findings = field(default_factory=Findings, compare=False, repr=False)

    @property
    def is_static(self) -> bool:
        return self._compiled is None

    def render(self, request: Mapping[str, object], binder: Binder, columns: frozenset[str], zone: str = UTC) -> str:
        """The SQL for one request; its values go to `binder`. `columns` are the identifiers that it may name.

        Moments without an offset are in `zone`, the workspace's.

        Raises MISSING_PARAMETER naming all that are missing, BAD_PARAMETER, IDENTIFIER, CUSTOM (also as
        `PipeError`), and TEMPLATE for what is the author's mistake.
        """
        if self._compiled is None:
            return self.text
        return self._run(self._compiled, Rendering(request, binder, columns, zone=zone))

    @property
    def identifiers(self) -> frozenset[str]:
        """Parameters that name columns."""
        return frozenset(self._found.identifiers)

    @property
    def names_columns(self) -> bool:
        """Whether names of columns become part of its text."""
        return self._found.names_columns

    @property
    def clashes(self) -> tuple[tuple[Place | None, str], ...]:
        """Parameters that have one type here and another there, with places."""
        return tuple((self._where(line), text) for line, text in self._found.clashes)

    @property
    def compared(self) -> tuple[tuple[str, Any], ...]:
        """Parameters with the constants that they are compared with."""
        return tuple(self._found.compared)

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The conditions of the template; their numbers are their positions."""
        return tuple(self._found.conditions)

    def dry(
        self,
        request: Mapping[str, object],
        made_up: Mapping[str, object],
        binder: Binder,
        columns: frozenset[str] | None,
        arms: Arms,
    ) -> str:
        """Render without a caller: `request`, completed from `made_up` by what turns out to be missing.

        `columns` may be None while it is not known what can be named. Raises what the author did wrong.
        """
        if self._compiled is None:
            return self.text
        given = dict(request)
        start = binder.mark()
        while True:
            binder.rewind(start)
            run = Rendering(given, binder, columns, arms)
            try:
                return self._run(self._compiled, run)
            except RookeryError as exc:
                added = {n: made_up[n] for n in run.missing if n in made_up and n not in given}
                if exc.code is not MISSING_PARAMETER or not added:
                    raise
                given |= added

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
            # The border to the template engine: whatever an expression can raise becomes an error of ours.
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
            message = "values of these types do not go together"
            hint = "give request parameters a type, for example Int32(x)"
        elif isinstance(exc, ZeroDivisionError):
            message = "division by zero"
        place = self._where(_line(exc.__traceback__, compiled))
        return RookeryError(TEMPLATE, message, hint=hint, place=place, detail=repr(exc)[:1000])


def _bounded(pieces: Iterator[str]) -> str:
    size, found = 0, []
    for piece in pieces:
        size += len(piece)
        if size > MAX_OUTPUT_BYTES:
            break
        found.append(piece)
    text = "".join(found)
    if size > MAX_OUTPUT_BYTES or (not text.isascii() and len(text.encode()) > MAX_OUTPUT_BYTES):
        raise RookeryError(TEMPLATE, f"the rendered text is longer than {MAX_OUTPUT_BYTES} bytes")
    return text


def _line(trace: TracebackType | None, compiled: JinjaTemplate) -> int:
    """The template's line at which an exception passed through it."""
    line = 1
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == compiled.filename:
            line = compiled.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return line


def compile_template(sql: str, place: Place | None = None, position: Position | None = None) -> Template:
    """Compile a node's SQL. `position` (or else `place`, of its first line) says where lines stand in the file.

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
        # The border to the template engine and to Python's compiler, on text that anybody may write.
        raise RookeryError(TEMPLATE, "the template cannot be read", place=where(1), detail=repr(exc)[:1000]) from exc


def _compiled(text: str, where: Callable[[int], Place | None]) -> Template:
    for line, token, _ in _ENVIRONMENT.lex(text):
        if token == "raw_begin":
            raise SyntaxProblemError(line, "`{% raw %}` is not supported", "bind such text as a value: {{ '…' }}")
    tree = _ENVIRONMENT.parse(text)
    walk = Walk()
    walk.template(tree)
    tree.set_environment(_ENVIRONMENT)
    compiled = _ENVIRONMENT.from_string(tree)
    return Template(text, walk.found.specs(), compiled, where, walk.found)


def _without_marker(sql: str) -> tuple[str, int]:
    """The text without Tinybird's leading `%` and its newline, and how many lines went with it."""
    start = len(sql) - len(sql.lstrip())
    if sql[start : start + 1] != "%":
        return sql, 0
    rest = sql[start + 1 :]
    head, newline, tail = rest.partition("\n")
    kept = tail if newline and not head.strip() else rest
    return kept, sql[: len(sql) - len(kept)].count("\n")


def _locator(dropped: int, place: Place | None, position: Position | None) -> Callable[[int], Place | None]:
    def where(line: int) -> Place | None:
        if position is not None:
            return position(line + dropped, 1)
        if place is None or place.line is None:
            return place
        return replace(place, line=place.line + dropped + line - 1, column=None)

    return where


__all__ = ["TEMPLATE_FUNCTIONS", "UNSUPPORTED", "Binder", "PipeError", "Template", "compile_template"]
