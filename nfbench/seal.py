"""Seals: hashes of what a record says, by which a change made by hand is noticed.

They are no signatures: who changes a record on purpose can seal it anew, which git shows.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from nfbench.errors import UsageError

MEND = "restore it (git checkout), or move it away to have it made again"


def seal(content: Any) -> str:
    """The SHA-256 of plain values in 64 hexadecimal digits, in whatever order of their keys.

    Raises:
        ValueError: a number that JSON does not have.
    """
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sealed_text(content: dict[str, Any]) -> str:
    """Plain values as the JSON of a file, with their seal among them as `sha256`.

    Raises:
        TypeError, ValueError: a value that JSON does not have.
    """
    sealed = content | {"sha256": seal(content)}
    return json.dumps(sealed, sort_keys=True, indent=1, allow_nan=False) + "\n"


def values_of(path: Path) -> dict[str, Any]:
    """The plain values of a sealed file, its seal among them.

    Raises:
        OSError: no such file.
        ValueError: no whole JSON of an object, or a number that JSON does not have.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=reject)
    except json.JSONDecodeError as error:
        raise UsageError(f"expected the JSON of a whole record, got {error}; {MEND}") from error
    if not isinstance(values, dict):
        raise UsageError(f"expected an object, got {type(values).__name__}")
    return values


def reject(constant: str) -> None:
    """Raises `UsageError` for NaN or an infinity, which JSON does not have but Python reads."""
    raise UsageError(f"{constant} is not a number that a record can hold")


def config_hash(config: Any) -> str:
    """The first 12 digits of the seal of an experiment's settings."""
    return seal(config)[:12]
