"""What the five tabular sets of the MAF paper share: the archive and its preprocessing.

Papamakarios, Pavlakou & Murray (2017), "Masked autoregressive flow for density estimation",
https://arxiv.org/abs/1705.07057; preprocessed files: https://doi.org/10.5281/zenodo.1161203.
"""

import numpy as np

from .dataset import File, Source, Splits


def published(*files: str, about: str) -> Source:
    """Files as the authors of MAF published them, all in one archive."""
    return Source(
        files=tuple(map(File, files)),
        about=f"{about}, from the archive of the MAF paper (0.9 GB for five data sets)",
        archive=File(
            "downloads/maf2017_data.tar.gz",
            url="https://zenodo.org/record/1161203/files/data.tar.gz",
            checksum="md5:9b9c9b0375315ad270eba4ce80c093ab",
        ),
        prefix="data/",
    )


def hold_out(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the first rows, the last int(n / 10) of them)."""
    n_held_out = int(0.1 * len(rows))
    return rows[:-n_held_out], rows[-n_held_out:]


def split_and_standardize(rows: np.ndarray, source: Source) -> Splits:
    """Hold out a test, then a validation set; scale by train + validation (std with ddof 0)."""
    rest, test = hold_out(rows)
    mean, std = rest.mean(axis=0), rest.std(axis=0)
    train, val = hold_out(rest)
    return as_splits(*((split - mean) / std for split in (train, val, test)), source=source)


def repeats_its_minimum(rows: np.ndarray) -> np.ndarray:
    """Which columns look discrete to MAF: their smallest value occurs more than 5 times, (D,).

    The published code calls this the largest count of any value; it is the count of the smallest.
    """
    n_repeats: np.ndarray = (rows == rows.min(axis=0)).sum(axis=0)
    return n_repeats > 5


def as_splits(train: np.ndarray, val: np.ndarray, test: np.ndarray, *, source: Source) -> Splits:
    """Splits in single precision, as the published code leaves them."""
    single = [np.ascontiguousarray(split, dtype=np.float32) for split in (train, val, test)]
    return Splits(single[0], single[1], single[2], source=str(source))
