"""Files from outside: opened without trust, refused by name, written whole or not at all."""

import gzip
import hashlib
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from nfbench.errors import UsageError


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a broken file makes its reader raise into a `UsageError` that names it."""
    try:
        yield
    except UsageError:
        raise
    except (OSError, EOFError, ValueError, LookupError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(
            f"{path}: cannot be read ({error}); the file may be cut short or of another kind: "
            "delete it and provide it again"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes the name `path` only once it is whole and on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False)
    try:
        with handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(handle.name, path)
    except BaseException:
        os.unlink(handle.name)
        raise


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
        match path.suffix:
            case ".npy":
                np.load(path, mmap_mode="r", allow_pickle=False)
            case ".npz" | ".zip":
                zipfile.ZipFile(path).close()
            case ".hdf5":
                import h5py  # Slow to import, and one data set needs it.

                h5py.File(path, "r").close()
            case ".gz":
                with gzip.open(path) as text:
                    text.read(1)
            case _ if path.stat().st_size == 0:
                raise ValueError("it is empty")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sidecar(path: Path) -> Path:
    """The file beside `path` that holds its SHA-256, as `sha256sum` writes it."""
    return path.with_name(f"{path.name}.sha256")


def record_sha256(path: Path) -> None:
    with replacing(sidecar(path)) as file:
        file.write(f"{sha256(path)}  {path.name}\n".encode())


def recorded_sha256(path: Path) -> str | None:
    """What the sidecar says, or None without one."""
    if not sidecar(path).is_file():
        return None
    with reading(sidecar(path)):
        return sidecar(path).read_text().split()[0]


def check_sha256(path: Path, expected: str) -> None:
    if (got := sha256(path)) != expected:
        raise UsageError(
            f"{path}: expected sha256 {expected}, got {got}; the file is not the one it was: "
            "delete it and provide it again"
        )
