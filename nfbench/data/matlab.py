"""MATLAB files: named arrays of checked shapes, and images stored column by column."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nfbench.errors import UsageError

from .files import reading


def load_mat(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> list[np.ndarray]:
    """The arrays of these names and shapes in a MATLAB file of version 7 or older.

    Raises:
        UsageError: a broken file, or one that does not hold them.
    """
    content = read_variables(path, *shapes)
    for name, shape in shapes.items():
        if name not in content or content[name].shape != shape:
            got = f"one of {content[name].shape}" if name in content else "no such variable"
            raise UsageError(
                f"{path}: expected the variable {name} of shape {shape}, got {got}; a part of the "
                "set, or another one, cannot stand for it"
            )
    return [content[name] for name in shapes]


def read_variables(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Those of the variables of these names that are in a MATLAB file of version 7 or older.

    Raises:
        UsageError: a broken file, or one of another version.
    """
    from scipy.io import loadmat, matlab  # Slow to import, and few data sets need it.

    with reading(path):
        try:
            content: dict[str, np.ndarray] = loadmat(path, variable_names=names)
        except (matlab.MatReadError, NotImplementedError, TypeError) as error:
            raise ValueError(str(error)) from error
    return content


def upright(rows: np.ndarray, event_shape: tuple[int, ...]) -> np.ndarray:
    """Images (n, 1, H, W) of rows (n, H * W) that hold their pixels column by column."""
    _, height, width = event_shape
    columns = rows.reshape(-1, 1, width, height)
    return np.ascontiguousarray(columns.transpose(0, 1, 3, 2))
