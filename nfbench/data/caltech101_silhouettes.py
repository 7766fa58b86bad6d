"""Caltech 101 Silhouettes: filled outlines of the objects of Caltech 101 (Marlin et al., 2010)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np

from nfbench.errors import UsageError

from .dataset import Dataset, File, Source, Splits
from .matlab import load_mat, upright

ADDRESS = "https://people.cs.umass.edu/~marlin/data/"
SIZES = (4_100, 2_264, 2_307)


@dataclass(frozen=True, kw_only=True)
class Caltech101Silhouettes(Dataset):
    """Images (1, 28, 28), 1 on the object, in the published split and its order.

    B. Marlin, K. Swersky, B. Chen & N. de Freitas (2010), Inductive principles for restricted
    Boltzmann machine learning. The file has 0 on the object, column by column. No licence is
    stated.
    """

    name: str = "caltech101_silhouettes"
    title: str = "Caltech 101 Silhouettes"
    event_shape: tuple[int, ...] = (1, 28, 28)
    sizes: tuple[int, int, int] = SIZES
    levels: int | None = 2
    sources: tuple[Source, ...] = (
        Source(
            files=(
                File(
                    "caltech101_silhouettes/caltech101_silhouettes_28_split1.mat",
                    url=f"{ADDRESS}caltech101_silhouettes_28_split1.mat",
                    checksum="md5:4483e9c14b188fd09937f9ea6f9ea777",
                ),
            ),
            about="the published split",
        ),
    )

    def read(self, root: Path, seed: int) -> Splits:
        """Read the images, uint8 (n, 1, 28, 28), whatever the seed."""
        source = self.find(root)
        (path,) = source.paths(root)
        n_pixels = prod(self.event_shape)
        shapes = {
            f"{split}_data": (n, n_pixels)
            for split, n in zip(Splits.NAMES, self.sizes, strict=True)
        }
        train, val, test = (
            _objects(path, rows, self.event_shape) for rows in load_mat(path, shapes)
        )
        return Splits(train, val, test, source=str(source))


@dataclass(frozen=True, kw_only=True)
class Caltech101Resplit(Dataset):
    """The same images in a split of our own, of the published sizes, from the unsplit file.

    The file is sorted by class; its images are permuted by `RandomState(0)`, then cut into
    training, validation and test, whatever the seed. Who is in which is not as published: numbers
    on it are not comparable with any.
    """

    name: str = "caltech101_resplit"
    title: str = "Caltech 101 Silhouettes, not the published split"
    event_shape: tuple[int, ...] = (1, 28, 28)
    sizes: tuple[int, int, int] = SIZES
    levels: int | None = 2
    sources: tuple[Source, ...] = (
        Source(
            files=(
                File(
                    "caltech101_silhouettes/caltech101_silhouettes_28.mat",
                    url=f"{ADDRESS}caltech101_silhouettes_28.mat",
                    checksum="sha256:"
                    "862d0a4b828256d54ad5de7c5066c18c72f355cac5b7cde4c1c3be7c000d180b",
                ),
            ),
            about="the published images, unsplit",
        ),
    )
    known: Mapping[str, str] = field(
        default_factory=lambda: {
            "caltech101_silhouettes/caltech101_silhouettes_28.mat": (
                "3a053c4553b497308895fde16889c9810b8ddc5945cd8cdedc42f8dd3d2736b7"
            )
        }
    )

    def read(self, root: Path, seed: int) -> Splits:
        """Read, permute and cut the images, uint8 (n, 1, 28, 28), whatever the seed."""
        source = self.find(root)
        (path,) = source.paths(root)
        n_images = sum(self.sizes)
        (rows,) = load_mat(path, {"X": (n_images, prod(self.event_shape))})
        images = _objects(path, rows, self.event_shape)
        images = images[np.random.RandomState(0).permutation(n_images)]
        train, val, test = np.split(images, np.cumsum(self.sizes)[:-1])
        return Splits(train, val, test, source=str(source))


def _objects(path: Path, rows: np.ndarray, event_shape: tuple[int, ...]) -> np.ndarray:
    """Images of 1 on the object, uint8, of rows with 0 there and 1 elsewhere."""
    if not ((rows == 0) | (rows == 1)).all():
        raise UsageError(f"{path}: expected pixels 0 and 1, got others")
    return upright((rows == 0).astype(np.uint8), event_shape)
