"""Omniglot's small sets of original drawings (Lake et al., 2015), for trials without the whole."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np

from nfbench.errors import UsageError

from .binary import draw
from .dataset import Dataset, File, Source, Splits
from .files import reading
from .pixels import encoded

ADDRESS = (
    "https://github.com/brendenlake/omniglot/raw/057f034baf2ecb8530bc5710e5a23584d2a519cc/python/"
)
SIDE = 105  # of a drawing, in pixels
SHA256S = {
    "small1": "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
    "small2": "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f",
}


ZIPS = Source(
    files=tuple(
        File(
            f"omniglot_raw_subset/images_background_{part}.zip",
            url=f"{ADDRESS}images_background_{part}.zip",
            checksum=f"sha256:{sha256}",
        )
        for part, sha256 in SHA256S.items()
    ),
    about="the small sets of original drawings (3 MB)",
)


@dataclass(frozen=True, kw_only=True)
class OmniglotSmall(Dataset):
    """Images (1, 28, 28) of 4,840 drawings of 8 alphabets, drawn binary for each batch.

    Greek and Latin are in both files and taken once. Ink is 1; a pixel's probability is the share
    of its area under ink, rounded to k / 255, see `shrink`. The drawings, sorted by path, are
    permuted by `RandomState(0)` and cut, whatever the seed; validation and test are drawn once, by
    `binary.draw`. The same hands and characters are on both sides of the cut, and these are not
    the images of `omniglot`: never to be set beside published numbers. MIT licence.
    """

    name: str = "omniglot_small"
    title: str = "Omniglot, 8 alphabets, own split"
    event_shape: tuple[int, ...] = (1, 28, 28)
    sizes: tuple[int, int, int] = (3_640, 400, 800)
    levels: int | None = 2
    stochastic: bool = True
    sources: tuple[Source, ...] = (ZIPS,)
    known: Mapping[str, str] = field(
        default_factory=lambda: {
            str(ZIPS): "f698d8a6eecda783e6ca6b48965bac93c8495d9ff7f5d5b5f3db15276af0a8ab"
        }
    )

    def read(self, root: Path, seed: int) -> Splits:
        """Decode, shrink, permute and cut, uint8 (n, 1, 28, 28), whatever the seed."""
        source = self.find(root)
        drawings = _drawings(source.paths(root))
        if len(drawings) != sum(self.sizes):
            raise UsageError(
                f"{source}: expected {sum(self.sizes)} different drawings, got {len(drawings)}"
            )
        side = self.event_shape[-1]
        images = np.stack([shrink(ink, side) for ink in drawings])[:, None]
        images = images[np.random.RandomState(0).permutation(len(images))]
        train, *others = np.split(images, np.cumsum(self.sizes)[:-1])
        val, test = draw(*(grey / np.float32(255) for grey in others))
        return Splits(train, val, test, source=str(source))


def shrink(ink: np.ndarray, side: int) -> np.ndarray:
    """The share of ink in each of side x side equal cells of a square, as 0..255, uint8.

    Pixels that a cell's border cuts count by the part inside, so that no ink is lost:
    shares = A ink A^T with A_ij the overlap of cell i and pixel j, over the cell's side.
    """
    n = len(ink)
    edges = np.arange(side + 1) * n  # in units of a side-th of a pixel
    pixel = np.arange(n) * side
    overlap = np.minimum(edges[1:, None], pixel + side) - np.maximum(edges[:-1, None], pixel)
    weights = overlap.clip(0).astype(np.float64)
    # Integers below 2^53, so that the sums are exact whatever their order.
    areas = weights @ ink @ weights.T
    return np.rint(255 * areas / n**2).astype(np.uint8)


def _drawings(paths: list[Path]) -> list[np.ndarray]:
    """The ink of each different drawing in the zips, bool (105, 105), in the order of their paths.

    A path counts from below the zip's own folder on.
    """
    contents: dict[str, tuple[Path, bytes]] = {}
    for path in paths:
        with reading(path):
            for name, content in encoded(path):
                contents.setdefault(name.partition("/")[2], (path, content))
    return [_ink(*content) for _, content in sorted(contents.items())]


def _ink(path: Path, content: bytes) -> np.ndarray:
    """Where the drawing in a PNG of one bit a pixel has ink, which is 0."""
    from PIL.Image import open as decode  # Slow to import, and few data sets need it.

    with reading(path), decode(BytesIO(content), formats=("PNG",)) as image:
        if image.mode != "1" or image.size != (SIDE, SIDE):
            raise UsageError(
                f"{path}: expected drawings of {SIDE} x {SIDE} pixels of one bit, got one of "
                f"{image.size} in mode {image.mode}"
            )
        return ~np.asarray(image)
