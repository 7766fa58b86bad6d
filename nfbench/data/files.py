"""Files from outside: opened without trust, refused by name, written whole or not at all."""

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from nfbench.errors import UsageError

UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a broken file makes its reader raise into a `UsageError` that names it."""
    try:
        yield
    except UsageError:
        raise
    except UNREADABLE as error:
        raise UsageError(
            f"{path}: cannot be read ({error}); the file may be cut short or of another kind: "
            "delete it and provide it again"
        ) from error


def load_matrix(path: Path, n_rows: int, n_columns: int) -> np.ndarray:
    """The (n_rows, n_columns) float array of a .npy file, without pickle."""
    with reading(path):
        # Mapped first: the header tells a wrong file before any of it is read.
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    check_matrix(path, matrix, n_rows, n_columns)
    return np.array(matrix, dtype=np.float64)


def check_matrix(path: Path, matrix: np.ndarray, n_rows: int, n_columns: int) -> None:
    """Refuse what is not a finite float matrix of this shape."""
    if matrix.shape != (n_rows, n_columns) or matrix.dtype.kind != "f":
        raise UsageError(
            f"{path}: expected floats, {n_rows} rows of {n_columns} columns, got {matrix.dtype} "
            f"of shape {matrix.shape}; a part of the data cannot stand for the published splits"
        )
    if not np.isfinite(matrix).all():
        raise UsageError(f"{path}: expected finite values, got NaN or infinity")


def peek(path: Path) -> None:
    """Open the container, reading next to nothing, to tell a broken file from a sound one."""
    with reading(path):
        if path.stat().st_size == 0:
            raise ValueError("it is empty")
        match path.suffix:
            case ".npy":
                np.load(path, mmap_mode="r", allow_pickle=False)
            case ".npz" | ".zip":
                zipfile.ZipFile(path).close()
            case ".hdf5":
                import h5py  # Slow to import, and one data set needs it.

                h5py.File(path, "r").close()
            case ".tar" | ".tgz":
                tarfile.open(path).close()
            case ".gz":
                with gzip.open(path) as text:
                    text.read(1)
