"""Omniglot: 32,460 handwritten characters of 50 alphabets (Lake et al., 2015), 28 x 28 pixels."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from nfbench.errors import UsageError

from .binary import draw
from .dataset import Dataset, File, Source, Splits
from .matlab import load_mat, upright


@dataclass(frozen=True, kw_only=True)
class Omniglot(Dataset):
    """Images (1, 28, 28) of Burda, Grosse & Salakhutdinov (2015), drawn binary for each batch.

    Splits of van den Berg et al. (2018), in their code: the training characters are shuffled, and
    the last of them are for validation; the file's test characters are the test set. Their shuffle
    depends on the seed of the run; here it is that of the data, the `--manual_seed` of theirs.
    Validation and test are drawn once, by `binary.draw`, from the probabilities of the file; those
    of training are rounded to k / 255. The drawings are under the MIT licence.
    """

    name: str = "omniglot"
    title: str = "Omniglot"
    event_shape: tuple[int, ...] = (1, 28, 28)
    sizes: tuple[int, int, int] = (23_000, 1_345, 8_070)
    levels: int | None = 2
    stochastic: bool = True
    sources: tuple[Source, ...] = (
        Source(
            files=(
                File(
                    "omniglot/chardata.mat",
                    url="https://github.com/yburda/iwae/raw/master/datasets/OMNIGLOT/chardata.mat",
                ),
            ),
            about="the published images",
        ),
    )

    def read(self, root: Path, seed: int) -> Splits:
        """Read, shuffle by the seed, cut, and draw validation and test; uint8 (n, 1, 28, 28)."""
        source = self.find(root)
        (path,) = source.paths(root)
        n_train, n_val, n_test = self.sizes
        n_pixels = prod(self.event_shape)
        shapes = {"data": (n_pixels, n_train + n_val), "testdata": (n_pixels, n_test)}
        rest, test = (
            upright(_probabilities(path, columns), self.event_shape)
            for columns in load_mat(path, shapes)
        )
        order = np.arange(len(rest))
        # The draws of a shuffle of the images themselves, which would move them one by one.
        np.random.RandomState(seed).shuffle(order)
        train, val = np.split(rest[order], [n_train])
        val, test = draw(val, test)
        train = np.rint(255 * train).astype(np.uint8)
        return Splits(train, val, test, source=f"{source} shuffled with {seed}")


def _probabilities(path: Path, columns: np.ndarray) -> np.ndarray:
    """Rows (n, d) in [0, 1], float32, of the columns (d, n) of a file."""
    if columns.dtype.kind not in "fiu" or not ((columns >= 0) & (columns <= 1)).all():
        raise UsageError(f"{path}: expected grey values in [0, 1], got others")
    return columns.T.astype(np.float32)
