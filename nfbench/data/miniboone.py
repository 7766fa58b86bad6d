"""MINIBOONE: neutrino events of the MiniBooNE experiment (UCI)."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nfbench.errors import UsageError

from .dataset import Dataset, File, Source, Splits
from .files import check_matrix, load_matrix, reading
from .maf import published, repeats_its_minimum, split_and_standardize

TEXT = "MiniBooNE_PID.txt"


@dataclass(frozen=True, kw_only=True)
class Miniboone(Dataset):
    """Particle-identification variables of the signal events, (43,).

    Preprocessing of Papamakarios et al. (2017): signal rows in the order of the file, less the
    outliers below -100 in the first variable and the variables that look discrete; held out and
    standardized. `head` is the number of rows, and the SHA-256 of their float64 bytes, with
    which the published array begins: the UCI text has to lead to the same.
    """

    name: str = "miniboone"
    title: str = "MINIBOONE"
    event_shape: tuple[int, ...] = (43,)
    sizes: tuple[int, int, int] = (29_556, 3_284, 3_648)
    sources: tuple[Source, ...] = (
        published("miniboone/data.npy", about="the published rows"),
        Source(files=(File(f"miniboone/{TEXT}"),), about="the text of the UCI archive"),
    )
    head: tuple[int, str] = (
        1000,
        "f3cddac208def989c177dfd8063a2ea1d452dc115345002341c0ad655df0eb01",
    )

    def read(self, root: Path, seed: int) -> Splits:
        """Read the signal, hold out and standardize, each split (n, 43), whatever the seed.

        Raises:
            UsageError: rows whose head is not the published one.
        """
        source = self.find(root)
        (path,) = source.paths(root)
        n_rows, n_columns = sum(self.sizes), self.event_shape[0]
        if path.name == TEXT:
            rows = _parse(path)
            check_matrix(path, rows, n_rows, n_columns)
        else:
            rows = load_matrix(path, n_rows, n_columns)
        self._check_head(path, rows)
        return split_and_standardize(rows, source)

    def _check_head(self, path: Path, rows: np.ndarray) -> None:
        n_rows, expected = self.head
        if hashlib.sha256(np.ascontiguousarray(rows[:n_rows]).data).hexdigest() != expected:
            raise UsageError(
                f"{path}: its first {n_rows} rows are not those of the published data set; "
                "`nfbench data prepare miniboone` downloads the published file"
            )


def _parse(path: Path) -> np.ndarray:
    """UCI text: a line with the numbers of signal and background rows, then signal rows first."""
    with reading(path), path.open(encoding="ascii") as text:
        n_signal = int(text.readline().split()[0])
        rows = np.loadtxt(text, max_rows=n_signal, ndmin=2)
    rows = rows[rows[:, 0] >= -100]
    return rows[:, ~repeats_its_minimum(rows)]
