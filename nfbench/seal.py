"""Seals: hashes of what a record says, by which a change made by hand is noticed.

They are no signatures: who changes a record on purpose can seal it anew, which git shows.
"""

import hashlib
import json
from typing import Any


def seal(content: Any) -> str:
    """The SHA-256 of plain values in 64 hexadecimal digits, in whatever order of their keys.

    Raises:
        ValueError: a number that JSON does not have.
    """
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def config_hash(config: Any) -> str:
    """The first 12 digits of the seal of an experiment's settings."""
    return seal(config)[:12]
