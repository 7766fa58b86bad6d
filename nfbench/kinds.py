"""The types that a setting of a flow can have, and the least of those that count something."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_origin

SIZES = (int, int | None, list[int], Sequence[int])  # counts, widths, and lists of them
CAN_BE_0 = ("exact_dims",)


def least_size(name: str, default: object) -> int:
    """The least of a count or a width: 1, or 0 where that means that there are none."""
    return 0 if default == 0 or name in CAN_BE_0 else 1


def is_below(value: Any, least: float) -> bool:
    """Whether a number, or one of a list, is less than the least; null is not."""
    numbers = value if isinstance(value, Sequence) else [value]
    return any(number is not None and number < least for number in numbers)


def spell(kind: Any) -> str:
    """A type in words: `int`, `list of int`, `float or null`, `'none' or 'uniform'`."""
    if kind is type(None):
        return "null"
    if get_origin(kind) in (list, Sequence):
        return f"list of {spell(get_args(kind)[0])}"
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    return " or ".join(map(spell, get_args(kind))) or str(kind.__name__)


def fits(kind: Any, value: object) -> bool:
    """Whether a value is of a type: an integer is a float too, and no truth value is a number.

    NaN and infinity are no floats.
    """
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) in (list, Sequence):
        if not isinstance(value, Sequence) or isinstance(value, str):
            return False
        return all(fits(get_args(kind)[0], item) for item in value)
    if get_args(kind):
        return any(fits(each, value) for each in get_args(kind))
    if kind in (int, float) and isinstance(value, bool):
        return False
    if kind is float:
        return isinstance(value, Real) and math.isfinite(value)
    return isinstance(value, Integral if kind is int else kind)
