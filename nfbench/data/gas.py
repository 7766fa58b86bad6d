"""GAS: sixteen chemical sensors in mixtures of ethylene and carbon monoxide (UCI)."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.lib.recfunctions import structured_to_unstructured

from nfbench.errors import UsageError

from .dataset import Dataset, File, Source, Splits
from .files import check_matrix, reading
from .maf import as_splits, hold_out, published
from .pickled import frame_to_npy

DROPPED = ("Meth", "Eth", "Time")


@dataclass(frozen=True, kw_only=True)
class Gas(Dataset):
    """Readings of the sensors that no later one repeats, (8,).

    Preprocessing of Papamakarios et al. (2017): columns that correlate with another above 0.98
    are dropped, first come first, and all rows are standardized together (ddof 1), those of the
    test set included. The published file is a random quarter of the UCI text whose seed was not
    recorded, so `ethylene_CO.txt` cannot give the published splits and is not read.
    """

    name: str = "gas"
    title: str = "GAS"
    event_shape: tuple[int, ...] = (8,)
    sizes: tuple[int, int, int] = (852_174, 94_685, 105_206)
    sources: tuple[Source, ...] = (
        replace(
            published(
                about="the published readings (ethylene_CO.txt cannot stand for them: which "
                "quarter of it was published is not recorded)",
            ),
            files=(
                File("gas/ethylene_CO.npy", raw=("gas/ethylene_CO.pickle",), convert=frame_to_npy),
            ),
        ),
    )

    def read(self, root: Path, seed: int) -> Splits:
        """Read, drop and standardize columns, hold out, each split (n, 8), whatever the seed."""
        source = self.find(root)
        rows = self._sensors(*source.paths(root))
        while (repeats := _repeats(rows)).any():
            rows = np.delete(rows, repeats.argmax(), axis=1)
        rows = (rows - rows.mean(axis=0)) / rows.std(axis=0, ddof=1)
        rest, test = hold_out(rows)
        return as_splits(*hold_out(rest), test, source=source)

    def _sensors(self, path: Path) -> np.ndarray:
        with reading(path):
            table = np.load(path, mmap_mode="r", allow_pickle=False)
        columns = table.dtype.names or ()
        if not set(DROPPED) < set(columns):
            raise UsageError(f"{path}: expected the columns {DROPPED} and others, got {columns}")
        sensors = [column for column in columns if column not in DROPPED]
        rows = structured_to_unstructured(table[sensors], dtype=np.float64)
        check_matrix(path, rows, sum(self.sizes), len(sensors))
        return rows


def _repeats(rows: np.ndarray) -> np.ndarray:
    """Which columns correlate above 0.98 with another one, (D,)."""
    n_alike: np.ndarray = (np.corrcoef(rows, rowvar=False) > 0.98).sum(axis=1)
    return n_alike > 1
