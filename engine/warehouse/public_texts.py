"""Messages in place of the engine's own, which quote values and names.

Callers who may not read all rows get these.
"""

from __future__ import annotations

from collections.abc import Mapping

THROW_IF = 395
"""The engine's number for errors that a query raises itself."""
_TEXTS: Mapping[int, str] = {
    6: "a value could not be converted to the required type",
    12: "a function has a parameter out of its range",
    27: "a value could not be parsed",
    36: "an argument has a value that the function does not accept",
    38: "a date could not be parsed",
    41: "a date or time could not be parsed",
    42: "a function has the wrong number of arguments",
    43: "a function has an argument of a type that it does not accept",
    44: "an argument must be a constant or of another type",
    46: "a function does not exist",
    47: "an identifier is not a column of the tables in the query",
    50: "a type does not exist",
    53: "two types do not match",
    60: "a table does not exist",
    63: "an aggregate function does not exist",
    69: "an argument is out of the range that the function accepts",
    70: "a value could not be converted to the required type",
    72: "a number could not be parsed",
    153: "division by zero",
    190: "arrays that must have the same length differ in length",
    206: "a subquery in a join needs an alias",
    215: "a column is neither aggregated nor in GROUP BY",
    223: "an argument of a type has a value that it does not accept",
    376: "a UUID could not be parsed",
    386: "types have no common supertype",
    407: "a decimal number is too large for its type",
    427: "a regular expression is not valid",
    THROW_IF: "the query raised an error itself",
    457: "a parameter has a value of the wrong type",
    675: "an IPv4 address could not be parsed",
    676: "an IPv6 address could not be parsed",
    691: "an Enum does not have such a value",
}
"""Messages by the engine's error number."""


def public_text(number: int | None, otherwise: str) -> str:
    """The message for an error number of the engine; `otherwise` for numbers that have none."""
    return _TEXTS.get(number or 0, otherwise)
