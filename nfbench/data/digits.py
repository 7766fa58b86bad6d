"""Digits: 1,797 handwritten digits, 8 x 8 pixels of 17 grey levels (UCI, in scikit-learn)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .dataset import Dataset, Splits


@dataclass(frozen=True, kw_only=True)
class Digits(Dataset):
    """Images (1, 8, 8) with values 0 to 16, and their labels 0 to 9.

    The set has no published split: the rows are permuted by `RandomState(0)`, then cut into
    training, validation and test in this order, whatever the seed.
    """

    name: str = "digits"
    title: str = "Digits 8x8"
    event_shape: tuple[int, ...] = (1, 8, 8)
    sizes: tuple[int, int, int] = (1297, 200, 300)
    levels: int | None = 17
    n_classes: int | None = 10

    def read(self, root: Path, seed: int) -> Splits:
        """Permute and cut the images, uint8 (n, 1, 8, 8), and labels (n,), whatever the seed."""
        from sklearn.datasets import load_digits  # Slow to import, and one data set needs it.

        digits = load_digits()
        order = np.random.RandomState(0).permutation(len(digits.images))
        cuts = np.cumsum(self.sizes)[:-1]
        images = digits.images[order].astype(np.uint8).reshape(-1, *self.event_shape)
        train, val, test = np.split(images, cuts)
        labels = dict(zip(Splits.NAMES, np.split(digits.target[order], cuts), strict=True))
        return Splits(train, val, test, source="scikit-learn", labels=labels)
