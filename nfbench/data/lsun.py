"""LSUN: photographs of one kind of place (Yu et al., 2015), in crops of 64 x 64 pixels."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from .dataset import File, Source
from .pixels import Image, TwoFiles, as_it_is, convert, raw_names

SMALLER_SIDE, SIDE = 96, 64
N_VALIDATION, N_TEST = 3_000, 300


def crops() -> Callable[[Image], np.ndarray]:
    """Images shrunk to a smaller side of 96 pixels, and of each a random crop, uint8 (3, 64, 64).

    The corners are drawn from one stream, so they depend on the order of the images alone.
    """
    rng = np.random.default_rng(0)

    def crop(image: Image) -> np.ndarray:
        from PIL.Image import Resampling

        ratio = SMALLER_SIDE / min(image.size)
        size = tuple(max(SMALLER_SIDE, round(ratio * side)) for side in image.size)
        left, top = (int(rng.integers(side - SIDE + 1)) for side in size)
        small = image.resize(size, Resampling.BILINEAR)
        return as_it_is(small.crop((left, top, left + SIDE, top + SIDE)))

    return crop


def convert_places(raw: Path, path: Path, *, n: int) -> None:
    """Write a crop of each of n images as a .npy."""
    convert(raw, path, shape=(n, 3, SIDE, SIDE), pixels=crops())


@dataclass(frozen=True, kw_only=True)
class Lsun(TwoFiles):
    """Places (3, 64, 64) of 256 levels, memory-mapped.

    Dinh, Sohl-Dickstein & Bengio (2017) shrink images to a smaller side of 96 pixels and take a
    random crop whenever they use one, in training and in evaluation. Here the crop of each image
    is drawn once, when the files are converted: a deviation. The published validation set (300
    images) is the test set; the last 3,000 training images, in the order of their names, are for
    validation.
    """

    event_shape: tuple[int, ...] = (3, SIDE, SIDE)


def places(category: str, n: int) -> Lsun:
    """The places of a category, of which n training images are published."""
    files = tuple(
        File(
            f"lsun/{category}_{split}_64x64.npy",
            raw=raw_names(f"lsun/{category}_{split}")[:3],
            convert=partial(convert_places, n=count),
        )
        for split, count in (("train", n), ("val", N_TEST))
    )
    return Lsun(
        name=f"lsun_{category}",
        title=f"LSUN {category.replace('_', ' ')} 64x64",
        sizes=(n - N_VALIDATION, N_VALIDATION, N_TEST),
        sources=(
            Source(files=files, about="the published images, exported from their data base"),
        ),
    )


LSUN_BEDROOM = places("bedroom", 3_033_042)
LSUN_TOWER = places("tower", 708_264)
LSUN_CHURCH_OUTDOOR = places("church_outdoor", 126_227)
