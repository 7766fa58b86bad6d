"""CelebA: 202,599 aligned photographs of faces (Liu et al., 2015), cropped to 64 x 64 pixels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nfbench.errors import UsageError

from .dataset import Dataset, File, Source, Splits
from .files import reading
from .pixels import Image, as_it_is, convert, mapped

SIZE, SIDE = (178, 218), 64  # width and height as published; side as used
BOX = (15, 40, 163, 188)  # left, top, right, bottom
PARTITION = "list_eval_partition.txt"
N_IMAGES = (162_770, 19_867, 19_962)


def crop(image: Image) -> np.ndarray:
    """The middle 148 x 148 pixels, [40:188, 15:163], in 64 x 64, uint8 (3, 64, 64).

    Resized by Pillow's bilinear filter, which averages where it shrinks, and rounded. The code of
    Real NVP neither averages nor rounds, so that its numbers are not of a discrete image.

    Raises:
        UsageError: an image of another size.
    """
    if image.size != SIZE:
        raise UsageError(f"expected aligned images of {SIZE} pixels, got one of {image.size}")
    from PIL.Image import Resampling

    return as_it_is(image.crop(BOX).resize((SIDE, SIDE), Resampling.BILINEAR))


def convert_faces(raw: Path, path: Path, sizes: tuple[int, int, int] = N_IMAGES) -> None:
    """Crop all images, in the order of the list of partitions beside `raw`, into one .npy.

    Raises:
        UsageError: no list, one of other partitions, or other images than it lists.
    """
    partition = raw.parent / PARTITION
    with reading(partition):
        lines = partition.read_text().splitlines()
        names, parts = zip(*map(str.split, lines), strict=True)
    if list(parts) != [str(i) for i, n in enumerate(sizes) for _ in range(n)]:
        raise UsageError(
            f"{partition}: expected {sizes} names marked 0, 1 and 2 in this order, got others"
        )
    convert(raw, path, shape=(len(names), 3, SIDE, SIDE), pixels=crop, names=names)


@dataclass(frozen=True, kw_only=True)
class CelebA(Dataset):
    """Faces (3, 64, 64) of 256 levels, memory-mapped, in the published partition.

    Cropped as Dinh, Sohl-Dickstein & Bengio (2017) do, see `crop`.
    """

    name: str = "celeba"
    title: str = "CelebA 64x64"
    event_shape: tuple[int, ...] = (3, SIDE, SIDE)
    sizes: tuple[int, int, int] = N_IMAGES
    levels: int | None = 256
    sources: tuple[Source, ...] = (
        Source(
            files=(
                File(
                    "celeba/faces_64x64.npy",
                    raw=("celeba/img_align_celeba.zip", "celeba/img_align_celeba"),
                    convert=convert_faces,
                ),
            ),
            about=f"the aligned images with celeba/{PARTITION} beside them",
        ),
    )

    def read(self, root: Path, seed: int) -> Splits:
        """Map the images, uint8 (n, 3, 64, 64), and cut them, whatever the seed."""
        source = self.find(root)
        (path,) = source.paths(root)
        faces = mapped(path, (sum(self.sizes), *self.event_shape))
        train, val, test = np.split(faces, np.cumsum(self.sizes)[:-1])
        return Splits(train, val, test, source=str(source))


CELEBA = CelebA()
