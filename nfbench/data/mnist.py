"""MNIST: 70,000 handwritten digits, 28 x 28 pixels (LeCun, Cortes & Burges), from IDX files."""

import gzip
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from nfbench.errors import UsageError

from .dataset import Dataset, File, Source, Splits
from .files import reading

# Images and labels of the training file, then of the test file.
NAMES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
BYTES = 0x0800  # the magic number of an IDX file of unsigned bytes, less its number of dimensions


@dataclass(frozen=True, kw_only=True)
class IdxImages(Dataset):
    """Images (1, 28, 28) of 256 grey levels and their labels, from four IDX files.

    Splits in the order of the files: training and validation are the first and the last images of
    the training file, as NICE and MAF have them; the test file is the test set.
    """

    event_shape: tuple[int, ...] = (1, 28, 28)
    sizes: tuple[int, int, int] = (50_000, 10_000, 10_000)
    levels: int | None = 256
    n_classes: int | None = 10

    def read(self, root: Path, seed: int) -> Splits:
        """Read and cut the images, uint8 (n, 1, 28, 28), and labels (n,), whatever the seed."""
        source = self.find(root)
        n_train, n_val, n_test = self.sizes
        shapes = [
            shape
            for n_images in (n_train + n_val, n_test)
            for shape in ((n_images, *self.event_shape[1:]), (n_images,))
        ]
        images, labels, test, test_labels = map(read_idx, source.paths(root), shapes)
        train, val = np.split(images[:, None], [n_train])
        train_labels, val_labels = np.split(labels, [n_train])
        all_labels = (label.astype(np.int64) for label in (train_labels, val_labels, test_labels))
        return Splits(
            train,
            val,
            test[:, None],
            source=str(source),
            labels=dict(zip(Splits.NAMES, all_labels, strict=True)),
        )


def read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The bytes of a gzipped IDX file, uint8, of the shape that is expected of it.

    The format is a magic number, the sizes of the dimensions (big-endian, 4 bytes each), and the
    values in C order: http://yann.lecun.com/exdb/mnist/.

    Raises:
        UsageError: a broken file, another magic number or shape, or more or fewer values.
    """
    with reading(path), gzip.open(path) as file:
        magic, *found = np.frombuffer(file.read(4 + 4 * len(shape)), dtype=">u4").tolist()
        if magic != BYTES + len(shape):
            raise UsageError(
                f"{path}: expected an IDX file of bytes in {len(shape)} dimensions (magic number "
                f"{BYTES + len(shape)}), got magic number {magic}"
            )
        if tuple(found) != shape:
            raise UsageError(
                f"{path}: expected shape {shape}, got {tuple(found)}; a part of the set, or "
                "another one, cannot stand for it"
            )
        values = bytearray(file.read(prod(shape) + 1))  # one more than there should be
    if len(values) != prod(shape):
        more = "more" if len(values) > prod(shape) else len(values)
        raise UsageError(f"{path}: expected {prod(shape)} values as its header says, got {more}")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def served(folder: str, address: str, *md5s: str) -> Source:
    """The four files below `folder` of the data root, as `address` serves them."""
    return Source(
        files=tuple(
            File(f"{folder}/{name}", url=address + name, checksum=f"md5:{md5}")
            for name, md5 in zip(NAMES, md5s, strict=True)
        ),
        about="the four published files",
    )


_MNIST = served(
    "mnist",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "d53e105ee54ea40749a09fcbcd1e9432",
    "9fb629c4189551a2d022fa330f9573f3",
    "ec29112dd5afa0611ce80d1b7f02629c",
)
MNIST = IdxImages(
    name="mnist",
    title="MNIST",
    sources=(_MNIST,),
    known={
        str(_MNIST): "eaabb53a3c9577262ffe68034026baa759f978f372134792932e77e7faeaa5be",
        f"{_MNIST} with labels": (
            "21d7959bc667584f5f3254d90f5b6fb5c8ef30073881aaf22fefb21b2e0be121"
        ),
    },
)
