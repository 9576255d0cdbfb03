"""Names of functions: those that a piece of SQL may call, and those that the engine has."""

from __future__ import annotations

from collections.abc import Callable

from engine.errors import FUNCTION_REFUSED, RookeryError, did_you_mean
from engine.sql.argument_bounds import BOUNDED
from engine.sql.functions import is_allowed
from engine.sql.grammar import refuse


class FunctionNames:
    """The functions that one piece of SQL may call."""

    def __init__(self, engine_functions: Callable[[], frozenset[str]], generated: frozenset[str]) -> None:
        """`engine_functions` and `generated` are as in `checker.check_tree`."""
        self._engine_functions, self._generated = engine_functions, generated
        self._known: frozenset[str] | None = None

    def require_allowed(self, name: str) -> None:
        """Refuse every function that `functions.txt` does not list."""
        if not is_allowed(name) and name.lower() not in self._generated:
            exists = self.exists(name)
            own_values = "only functions that depend on nothing but a row's own values can be used"
            hint = own_values if exists else did_you_mean(name, filter(is_allowed, self._engine_functions()))
            raise RookeryError(
                FUNCTION_REFUSED,
                f"function `{name}` is not allowed" if exists else f"no function `{name}`",
                hint=hint,
            )

    def exists(self, name: str) -> bool:
        """Whether the engine has a function of this name, in any case."""
        if self._known is None:
            # One call to the engine takes milliseconds, and a query may have thousands of names.
            self._known = frozenset(k.lower() for k in self._engine_functions())
        return name.lower() in self._known


def refuse_bounded(name: str) -> None:
    """Refuse a slow function that is called only by its name, because a length limit cannot be added to its
    arguments.
    """
    if name.lower() in BOUNDED:
        refuse(f"`{name}` without its arguments", f"write a lambda, as in `x -> {name}(x, ...)`")
