"""Checkpoints: plain state, written atomically, read without executing anything."""

from pathlib import Path
from typing import Any

import torch

from nfbench.atomic import replacing
from nfbench.errors import UsageError


def save(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors, plain values) to a temporary file beside ``path``; rename that."""
    with replacing(path) as file:
        torch.save(state, file)


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint with ``weights_only=True``.

    Raises:
        UsageError: if the file is not a readable checkpoint; the message names it.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such checkpoint") from None
    except Exception as error:  # torch raises several unrelated types for a damaged file
        raise UsageError(
            f"{path}: expected a checkpoint, got an unreadable file ({type(error).__name__}); if "
            "it is the last.pt of a run, delete it, and the run starts over"
        ) from error
    return state
