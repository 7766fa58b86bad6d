"""BSDS300: 8 x 8 grey patches of the Berkeley segmentation images."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .dataset import Dataset, Source, Splits
from .files import reading
from .maf import as_splits, published


@dataclass(frozen=True, kw_only=True)
class Bsds300(Dataset):
    """Patches less their mean and their last pixel, (63,), used as published.

    Papamakarios et al. (2017) after Uria, Murray & Larochelle (2013), "RNADE",
    https://arxiv.org/abs/1306.0186: pixels with uniform noise, divided by 256. No scaling here.
    """

    name: str = "bsds300"
    title: str = "BSDS300"
    event_shape: tuple[int, ...] = (63,)
    sizes: tuple[int, int, int] = (1_000_000, 50_000, 250_000)
    sources: tuple[Source, ...] = (
        published("BSDS300/BSDS300.hdf5", about="the published patches"),
    )

    def read(self, root: Path, seed: int) -> Splits:
        """Read the published patches, each split (n, 63), whatever the seed."""
        import h5py  # Slow to import, and one data set needs it.

        source = self.find(root)
        (path,) = source.paths(root)
        with reading(path), h5py.File(path, "r") as file:
            keys = ("train", "validation", "test")
            return as_splits(*(np.asarray(file[key]) for key in keys), source=source)
