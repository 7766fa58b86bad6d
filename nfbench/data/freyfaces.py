"""Frey Faces: 1,965 frames of one face, 28 x 20 pixels (B. Frey; S. Roweis' page of data)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nfbench.errors import UsageError

from .dataset import Dataset, File, Source, Splits
from .files import reading

SHUFFLES = (123, 321, 231)  # numpy's seeds of the published runs, by the seed of the data
FILE = "freyfaces/freyfaces.npz"


@dataclass(frozen=True, kw_only=True)
class FreyFaces(Dataset):
    """Images (1, 28, 20) of 256 grey levels, in the splits of van den Berg et al. (2018).

    Neighbours in the film are near copies; the frames are shuffled by `RandomState(s).shuffle`
    before they are cut into training, validation and test. The published runs have s = 123, 321
    and 231: data seeds 0, 1 and 2. No licence is stated.
    """

    name: str = "freyfaces"
    title: str = "Frey Faces"
    event_shape: tuple[int, ...] = (1, 28, 20)
    sizes: tuple[int, int, int] = (1_565, 200, 200)
    levels: int | None = 256
    sources: tuple[Source, ...] = (
        Source(
            files=(
                File(
                    FILE,
                    checksum="sha256:"
                    "3c70375e0a9c4751ad49ad5f1f692bd094c46f133cf4aa8ea77d1cb14e1efcd1",
                ),
            ),
            about="the frames in the order of the film",
        ),
    )
    known: Mapping[str, str] = field(
        default_factory=lambda: {
            f"{FILE} shuffled with 123": (
                "a2fffe9d4bccdba80984f8f808ce8c1f944f99fe23109525ec168afc9c78c686"
            ),
            f"{FILE} shuffled with 321": (
                "e45d9ab7e4dc5dd8da0f633aecd4eca914da46cf4af57d052a27e679b6d52841"
            ),
            f"{FILE} shuffled with 231": (
                "03642a521995dfe86f343e3b5b0b6490c2f3c6c0c1aa037052c93ba933f5d35f"
            ),
        }
    )

    def read(self, root: Path, seed: int) -> Splits:
        """Read, shuffle by the seed and cut the frames, uint8 (n, 1, 28, 20).

        Raises:
            UsageError: a seed that stands for no published shuffle, or a wrong file.
        """
        if not 0 <= seed < len(SHUFFLES):
            raise UsageError(
                f"{self.name}: expected the data seed 0, 1 or 2, which stand for the published "
                f"shuffles {', '.join(map(str, SHUFFLES))}; got {seed}"
            )
        source = self.find(root)
        (path,) = source.paths(root)
        shape = (sum(self.sizes), *self.event_shape[1:])
        with reading(path), np.load(path, allow_pickle=False) as file:
            images = file["images"]
        if images.shape != shape or images.dtype != np.uint8:
            raise UsageError(
                f"{path}: expected images as uint8 of shape {shape}, got {images.dtype} of shape "
                f"{images.shape}"
            )
        order = np.arange(len(images))
        # The draws of a shuffle of the frames themselves, which would move them one by one.
        np.random.RandomState(SHUFFLES[seed]).shuffle(order)
        train, val, test = np.split(images[order][:, None], np.cumsum(self.sizes)[:-1])
        return Splits(train, val, test, source=f"{source} shuffled with {SHUFFLES[seed]}")
