"""Large sets of images: decoded once into a .npy, from then on mapped instead of read."""

import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from nfbench.atomic import replacing
from nfbench.errors import UsageError

from .dataset import Dataset, Splits
from .files import reading

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
CONTAINERS = (".tar", ".zip", "", ".npz", ".npy")
Image = Any  # of Pillow, which is imported when images are decoded and not before


def raw_names(name: str) -> tuple[str, ...]:
    """What a set of images may be given as: an archive or a folder of files, or one array."""
    return tuple(name + suffix for suffix in CONTAINERS)


def convert(
    raw: Path,
    path: Path,
    *,
    shape: tuple[int, ...],
    pixels: Callable[[Image], np.ndarray] | None = None,
    names: Iterable[str] | None = None,
) -> None:
    """Write the images of `raw`, a tar, zip, folder or array, as a .npy, uint8 (n, C, H, W).

    Files are taken in the order of their paths and go through `pixels`, Pillow image ->
    (C, H, W); arrays, (n, H, W, C) or (n, C, H, W), are taken as they are. With `names` the files
    must have these, in this order. Nothing is written unless all is well.

    Raises:
        UsageError: a broken file, or other images than `shape` and `names` say.
    """
    is_array = raw.suffix in (".npy", ".npz")
    images = stacked(raw) if is_array else decoded(raw, pixels or as_it_is, names)
    write(path, images, shape)


def as_it_is(image: Image) -> np.ndarray:
    """The pixels of a Pillow image, (C, H, W)."""
    return np.asarray(image).transpose(2, 0, 1)


def decoded(
    raw: Path, pixels: Callable[[Image], np.ndarray], names: Iterable[str] | None
) -> Iterator[np.ndarray]:
    """The images of an archive or a folder, as RGB, in the order of their paths."""
    from PIL.Image import open as decode  # Slow to import, and few data sets need it.

    expected = None if names is None else iter(names)
    with reading(raw):
        for path, content in encoded(raw):
            name = PurePosixPath(path).name
            if expected is not None and name != (wanted := next(expected, None)):
                raise UsageError(f"{raw}: expected the image {wanted} next, got {name}")
            with decode(BytesIO(content), formats=("PNG", "JPEG", "WEBP")) as image:
                yield pixels(image.convert("RGB"))


def encoded(raw: Path) -> Iterator[tuple[str, bytes]]:
    """Path and content of each image file in a folder, zip or plain tar, in the order of paths."""
    if raw.is_dir():
        for path in sorted(filter(is_image, map(str, raw.rglob("*")))):
            yield path, Path(path).read_bytes()
    elif raw.suffix == ".zip":
        with zipfile.ZipFile(raw) as archive:
            for path in sorted(filter(is_image, archive.namelist())):
                yield path, archive.read(path)
    else:
        # Packed in any order: members are found first, then read in that of their paths.
        with tarfile.open(raw, "r:") as tar, raw.open("rb") as file:
            members = [m for m in tar if m.isfile() and is_image(m.name)]
            for path, start, size in sorted((m.name, m.offset_data, m.size) for m in members):
                file.seek(start)
                yield path, file.read(size)


def is_image(path: str) -> bool:
    """Whether a path is that of an image, and not hidden."""
    name = PurePosixPath(path).name
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def stacked(raw: Path) -> Iterator[np.ndarray]:
    """The images (C, H, W) of a .npy, or of a .npz with one array in it."""
    with reading(raw):
        images = np.load(raw, mmap_mode="r", allow_pickle=False)
        if raw.suffix == ".npz":
            (name,) = images.files
            images = images[name]
        if images.ndim != 4:
            raise UsageError(f"{raw}: expected (n, H, W, C) or (n, C, H, W), got {images.shape}")
        yield from images.transpose(0, 3, 1, 2) if images.shape[-1] == 3 else images


def write(path: Path, images: Iterable[np.ndarray], shape: tuple[int, ...]) -> None:
    """Write images one after the other as a .npy of this shape, whole or not at all."""
    from rich.console import Console
    from rich.progress import track

    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    n = 0
    shown = track(images, path.name, total=shape[0], console=Console(stderr=True))
    with replacing(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for n, image in enumerate(shown, 1):
            if image.shape != shape[1:] or image.dtype != np.uint8:
                raise UsageError(
                    f"{path}: expected uint8 of shape {shape[1:]} for image {n}, got "
                    f"{image.dtype} of shape {image.shape}"
                )
            file.write(image.tobytes())
        if n != shape[0]:
            raise UsageError(
                f"{path}: expected {shape[0]} images, got {n}; a part of the set, or another "
                "one, cannot stand for it"
            )


def mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The uint8 array of a .npy, memory-mapped, read-only.

    Raises:
        UsageError: a broken file, or an array of another kind.
    """
    with reading(path):
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.shape != shape or array.dtype != np.uint8:
        raise UsageError(
            f"{path}: expected uint8 of shape {shape}, got {array.dtype} of shape {array.shape}"
        )
    return array


@dataclass(frozen=True, kw_only=True)
class TwoFiles(Dataset):
    """Images of 256 levels in two mapped files: the test set, and a training set whose last images
    are for validation.
    """

    levels: int | None = 256

    def read(self, root: Path, seed: int) -> Splits:
        """Map the images, uint8 (n, *event_shape), and cut them, whatever the seed."""
        source = self.find(root)
        n_train, n_val, n_test = self.sizes
        rest, test = (
            mapped(path, (n, *self.event_shape))
            for path, n in zip(source.paths(root), (n_train + n_val, n_test), strict=True)
        )
        return Splits(rest[:n_train], rest[n_train:], test, source=str(source))
