"""HEPMASS: simulated particle collisions, a particle of mass 1000 against background (UCI)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .dataset import Dataset, File, Source, Splits
from .files import check_matrix, reading
from .maf import as_splits, hold_out, published, repeats_its_minimum


@dataclass(frozen=True, kw_only=True)
class Hepmass(Dataset):
    """Kinematic features of the signal events, (21,).

    Preprocessing of Papamakarios et al. (2017): rows with label 1, standardized by those of the
    training file (ddof 1, validation included), less the features that look discrete there.
    """

    name: str = "hepmass"
    title: str = "HEPMASS"
    event_shape: tuple[int, ...] = (21,)
    sizes: tuple[int, int, int] = (315_123, 35_013, 174_987)
    sources: tuple[Source, ...] = (
        published("hepmass/1000_train.csv", "hepmass/1000_test.csv", about="the UCI files"),
        Source(
            files=(File("hepmass/1000_train.csv.gz"), File("hepmass/1000_test.csv.gz")),
            about="the files of the UCI archive, as they are there",
        ),
    )

    def read(self, root: Path, seed: int) -> Splits:
        """Read the signal, standardize, drop features, each split (n, 21), whatever the seed."""
        source = self.find(root)
        train_path, test_path = source.paths(root)
        n_columns = _n_columns(train_path)
        n_train, n_val, n_test = self.sizes
        rest = _signal(train_path, n_columns, n_train + n_val)
        # The published test file has one column more than the training file, the last.
        test = _signal(test_path, n_columns, n_test)
        mean, std = rest.mean(axis=0), rest.std(axis=0, ddof=1)
        rest, test = (rest - mean) / std, (test - mean) / std
        kept = ~repeats_its_minimum(rest)
        return as_splits(*hold_out(rest[:, kept]), test[:, kept], source=source)


def _n_columns(path: Path) -> int:
    with reading(path):
        header = np.loadtxt(path, delimiter=",", comments=None, max_rows=1, dtype=str)
    return header.size


def _signal(path: Path, n_columns: int, n_rows: int) -> np.ndarray:
    """The features of the rows with label 1, in the order of the file, (n_rows, n_columns - 1)."""
    with reading(path):
        rows = np.loadtxt(
            path, delimiter=",", comments=None, skiprows=1, usecols=range(n_columns), ndmin=2
        )
    signal = rows[rows[:, 0] == 1, 1:]
    check_matrix(path, signal, n_rows, n_columns - 1)
    return signal
