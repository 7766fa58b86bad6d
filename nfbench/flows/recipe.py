"""What the recipe of a flow may be given: its own signature, checked whenever it is called."""

import inspect
from collections.abc import Callable
from functools import wraps
from math import prod
from typing import Any, ParamSpec, get_type_hints

from nfbench.kinds import SIZES, fits, is_below, least_size, spell

from .flow import Flow

P = ParamSpec("P")


def recipe(build: Callable[P, Flow]) -> Callable[P, Flow]:
    """A recipe that refuses what its signature does not allow, and tells its flow the event.

    Counts and widths are at least 1, or 0 where that is the default. Events (C, H, W) of the
    recipes of images are images; those of all others are rows of as many dimensions.

    Raises:
        TypeError: when called, if there is no such argument, or one lacks.
        ValueError: when called, if an argument is of another type, or below the least.
    """
    signature, kinds = inspect.signature(build), get_type_hints(build)

    @wraps(build)
    def checked(*args: P.args, **kwargs: P.kwargs) -> Flow:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{build.__name__}{signature}: {error}") from None
        for name, value in given.items():
            least = least_size(name, signature.parameters[name].default)
            check_argument(f"{build.__name__}: {name}", kinds[name], value, least)
        shape = tuple(int(side) for side in given["event_shape"])
        if not shape:
            raise ValueError(f"{build.__name__}: event_shape: expected at least 1 side, got ()")
        flow = build(*args, **kwargs)
        flow.event_shape = shape if is_of_images(build.__name__) else (prod(shape),)
        return flow

    return checked


def is_of_images(name: str) -> bool:
    """Whether events of the recipe of this name are images (C, H, W), and not vectors."""
    return name.endswith("_image")


def check_argument(where: str, kind: Any, value: Any, least: int) -> None:
    """Refuse a value of another type than the kind, and sizes below the least."""
    if not fits(kind, value):
        raise ValueError(f"{where}: expected {spell(kind)}, got {value!r}")
    if kind in SIZES and is_below(value, least):
        raise ValueError(f"{where}: expected at least {least}, got {value!r}")
