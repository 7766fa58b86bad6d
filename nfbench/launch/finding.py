"""What the doctor says of one thing. Imports no torch."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """A check's outcome on one line; a fault or warning also says what to do."""

    check: str
    kind: Literal["ok", "note", "warning", "fault"]
    message: str


def ok(check: str, message: str) -> Finding:
    """As it should be."""
    return Finding(check, "ok", message)


def note(check: str, message: str) -> Finding:
    """Neither good nor bad."""
    return Finding(check, "note", message)


def warning(check: str, message: str) -> Finding:
    """What may be meant."""
    return Finding(check, "warning", message)


def fault(check: str, message: str) -> Finding:
    """What keeps a job from running."""
    return Finding(check, "fault", message)
