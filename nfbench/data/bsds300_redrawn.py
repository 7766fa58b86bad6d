"""BSDS300 redrawn: 8 x 8 grey patches, drawn here from the Berkeley segmentation images."""

import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np

from nfbench.errors import UsageError

from .dataset import Dataset, File, Source, Splits
from .files import reading

ADDRESS = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/segbench/"
TGZ, TAR = "bsds300/BSDS300-images.tgz", "bsds300/bsds300_images.tar"
MEMBER = re.compile(r"(?:.*/)?((train|test)/\d+\.jpg)")
SIDE = 8  # of a patch, in pixels
BLOCK = 2**14  # patches made at a time: the arrays in between stay small


@dataclass(frozen=True, kw_only=True)
class Bsds300Redrawn(Dataset):
    """Patches less their mean and their last pixel, (63,): the recipe of `bsds300`, another draw.

    Uria, Murray & Larochelle (2013), "RNADE", https://arxiv.org/abs/1306.0186: 8 x 8 grey patches
    at random places of the images of Martin et al. (2001), plus uniform noise in [0, 1), divided
    by 256, less the mean of the patch; of 180 training images to train on, of the other 20 to
    validate. The numbers of patches are those of Papamakarios et al. (2017). What is left open is
    settled here: the first 180 images in the order of their names; grey is Pillow's L,
    0.299 R + 0.587 G + 0.114 B, rounded; every place in every image is as likely as every other,
    and may come again. These are not the published points: numbers on them can be set beside
    published ones within their error, not digit by digit.

    The splits are drawn one after the other from one generator, seeded by the seed of the data
    set. `image_size` is the width and height of an image, or its height and width; `n_images` are
    those for training, validation and test. Free for research that is not commercial.
    """

    name: str = "bsds300_redrawn"
    title: str = "BSDS300, patches redrawn"
    event_shape: tuple[int, ...] = (SIDE**2 - 1,)
    sizes: tuple[int, int, int] = (1_000_000, 50_000, 250_000)
    image_size: tuple[int, int] = (481, 321)
    n_images: tuple[int, int, int] = (180, 20, 100)
    sources: tuple[Source, ...] = (
        Source(
            files=(File(TGZ, url=f"{ADDRESS}BSDS300-images.tgz"),),
            about="the published images (22 MB)",
        ),
        Source(
            files=(
                File(
                    TAR,
                    checksum="sha256:"
                    "66a2d6d9a4087bca14ab1cf3a225710167f33e3e5ca49bc5d3fdfd80a801e098",
                ),
            ),
            about="the same images as train/*.jpg and test/*.jpg, in a plain tar",
        ),
    )
    # Both archives hold the same files, byte for byte.
    known: Mapping[str, str] = field(
        default_factory=lambda: {
            f"{name} drawn with 0": (
                "02c6dfb5a1165f86c7ae1a7285d913e730f8315268a9a722ff5b908a0978943e"
            )
            for name in (TGZ, TAR)
        }
    )

    deviations: tuple[str, ...] = (
        "patches drawn anew from the images of BSDS300 by the published recipe, for training and "
        "for testing, where the paper's are those of a published file",
    )

    def read(self, root: Path, seed: int) -> Splits:
        """Draw train, val and test by the seed, each split (n, 63), float32.

        Raises:
            UsageError: a broken archive, or other images than `n_images` and `image_size` say.
        """
        source = self.find(root)
        (path,) = source.paths(root)
        train, val, test = self._images(path)
        rng = np.random.default_rng(seed)
        n_train, n_val, n_test = self.sizes
        return Splits(
            draw(train, n_train, rng),
            draw(val, n_val, rng),
            draw(test, n_test, rng),
            source=f"{source} drawn with {seed}",
        )

    def _images(self, path: Path) -> tuple[list[np.ndarray], ...]:
        """Those for training, validation and test, each image grey, uint8 (H, W)."""
        contents = members(path)
        names = sorted(contents, key=lambda name: (name.startswith("test/"), name))
        n_train, n_val, n_test = self.n_images
        n_found = sum(name.startswith("train/") for name in names)
        if (n_found, len(names) - n_found) != (n_train + n_val, n_test):
            raise UsageError(
                f"{path}: expected {n_train + n_val} images train/*.jpg and {n_test} test/*.jpg, "
                f"got {n_found} and {len(names) - n_found}; other images cannot stand for them"
            )
        with reading(path):
            images = [grey(name, contents[name], self.image_size) for name in names]
        return images[:n_train], images[n_train:n_found], images[n_found:]


def members(path: Path) -> dict[str, bytes]:
    """The files train/*.jpg and test/*.jpg of an archive, whatever folder they are in there."""
    with reading(path), tarfile.open(path) as tar:
        return {
            found[1]: file.read()
            for member in tar
            if (found := MEMBER.fullmatch(member.name))
            and member.isfile()
            and (file := tar.extractfile(member))
        }


def grey(name: str, content: bytes, size: tuple[int, int]) -> np.ndarray:
    """A JPEG of this width and height, or turned, as grey levels, uint8 (H, W)."""
    from PIL.Image import open as decode  # Slow to import, and few data sets need it.

    with decode(BytesIO(content), formats=("JPEG",)) as image:
        if image.size not in (size, size[::-1]):
            raise ValueError(f"{name}: expected {size} pixels or turned, got {image.size}")
        return np.asarray(image.convert("L"))


def draw(images: Sequence[np.ndarray], n: int, rng: np.random.Generator) -> np.ndarray:
    """n patches of images (H, W), some of them (W, H), all places as likely, (n, 63) float32.

    x = (k + u) / 256 of grey levels k, u uniform in [0, 1); a row is x - mean(x), without its last
    pixel, which is minus the sum of the others.
    """
    height, width = images[0].shape
    n_places = (height - SIDE + 1) * (width - SIDE + 1)
    image, place = np.divmod(rng.integers(len(images) * n_places, size=n), n_places)
    widths = np.array([each.shape[1] for each in images])[image]
    row, column = np.divmod(place, widths - SIDE + 1)
    corners = image * (height * width) + row * widths + column
    pixels = np.concatenate([each.ravel() for each in images])
    inside = np.arange(SIDE)
    patches = np.empty((n, SIDE**2 - 1), np.float32)
    for i in range(0, n, BLOCK):
        block = slice(i, i + BLOCK)
        offsets = inside[:, None] * widths[block, None, None] + inside
        levels = pixels[corners[block, None] + offsets.reshape(-1, SIDE**2)]
        # Noise of 24 bits: sums of 64 are exact in float64, whatever their order.
        x = (levels + rng.random(levels.shape, np.float32).astype(np.float64)) / 256
        patches[block] = (x - x.mean(axis=1, keepdims=True))[:, :-1]
    return patches
