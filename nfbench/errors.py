"""Errors that are the user's to mend."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class UsageError(ValueError):
    """Unusable input; the message says what was expected, what was got, and what would work."""


@contextmanager
def gathering(wrong: list[str]) -> Iterator[None]:
    """Add what a `UsageError` within says to a list, and go on after the block."""
    try:
        yield
    except UsageError as error:
        wrong.append(str(error))


class FailedRunError(RuntimeError):
    """A run that has no number to give, and what its record says of it.

    Args:
        kind: the failure in a few words, for a table.
        message: what happened and what to try.
        step: how many optimizer steps were taken; None where they are not counted.
        batch: which batch it was.
        checkpoint: the last good checkpoint, below the root.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        step: int | None,
        batch: object = None,
        checkpoint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.failure = {
            "kind": kind,
            "message": message,
            "step": step,
            "batch": batch,
            "checkpoint": checkpoint,
        }


class OdeError(FailedRunError):
    """A differential equation that no solver gets to the end of; says where, and what to try."""

    def __init__(self, message: str) -> None:
        super().__init__("diverging ODE", message, step=None)


def elsewhere(place: Path, command: str) -> str:
    """How a message about what a run leaves beside its record ends, where only that is here."""
    return f"it stays where the run was; to make it here move {place} away and run: {command}"


def expect(condition: bool, message: str) -> None:
    """Raises `UsageError` with the message unless the condition holds."""
    if not condition:
        raise UsageError(message)


def check_keys(section: str, values: Any, keys: str, *, optional: str = "") -> None:
    """Raises `UsageError` unless an object has these keys, and none but optional ones."""
    expect(isinstance(values, dict), f"{section}: expected an object")
    wrong = (set(values) - set(optional.split())) ^ set(keys.split())
    expect(
        not wrong,
        f"{section}: missing or unknown {sorted(wrong)}; expected {keys} {optional}".rstrip(),
    )
