"""Seals: hashes of what a record says, by which a change made by hand is noticed.

They are no signatures: who changes a record on purpose can seal it anew, which git shows.
"""

import hashlib
import json
from typing import Any

from nfbench.errors import UsageError


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


def reject(constant: str) -> None:
    """Raises `UsageError` for NaN or an infinity, which JSON does not have but Python reads."""
    raise UsageError(f"{constant} is not a number that a record can hold")


def config_hash(config: Any) -> str:
    """The first 12 digits of the seal of an experiment's settings."""
    return seal(config)[:12]
