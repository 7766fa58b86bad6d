"""MNIST in one fixed binarization (Larochelle & Murray, 2011), from its text or packed bits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np

from nfbench.errors import UsageError

from .dataset import Dataset, File, Source, Splits
from .files import reading

ADDRESS = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"
MD5S = {
    "train": "db28b1a6ae0fe70cbd3da91acf46e477",
    "valid": "bf37822a04e94123630de6a7dfd9c9ef",
    "test": "14e41ae11040adba6ab8cb291eda0dd8",
}
TEXT = Source(
    files=tuple(
        File(
            f"mnist_binarized/binarized_mnist_{split}.amat",
            url=f"{ADDRESS}binarized_mnist_{split}.amat",
            checksum=f"md5:{md5}",
        )
        for split, md5 in MD5S.items()
    ),
    about="the published text (110 MB)",
)
PACKED = Source(
    files=(
        File(
            "mnist_binarized/binarized_mnist_packed.npz",
            checksum="sha256:50de2c8299a5a297789293ab2c30f6fc3cb8c359a15e5e88d5501aa18ebb8fa5",
        ),
    ),
    about="the published digits, eight a byte",
)


@dataclass(frozen=True, kw_only=True)
class MnistBinarized(Dataset):
    """Images (1, 28, 28) of 0 and 1 in the published splits, whose order is not MNIST's.

    H. Larochelle & I. Murray (2011), The neural autoregressive distribution estimator. No labels.
    No licence is stated.
    """

    name: str = "mnist_binarized"
    title: str = "MNIST, binarized once"
    event_shape: tuple[int, ...] = (1, 28, 28)
    sizes: tuple[int, int, int] = (50_000, 10_000, 10_000)
    levels: int | None = 2
    sources: tuple[Source, ...] = (TEXT, PACKED)
    known: Mapping[str, str] = field(
        default_factory=lambda: dict.fromkeys(
            map(str, (TEXT, PACKED)),
            "720b2dbbf680db942d85e53419734e5c220a908869a9c5cff9dfd6a37ebec63b",
        )
    )

    def read(self, root: Path, seed: int) -> Splits:
        """Read the images, uint8 (n, 1, 28, 28), whatever the seed."""
        source = self.find(root)
        path, *others = source.paths(root)
        shapes = [(n, prod(self.event_shape)) for n in self.sizes]
        if others:
            rows = [_parse(*each) for each in zip((path, *others), shapes, strict=True)]
        else:
            rows = _unpack(path, shapes)
        train, val, test = (each.reshape(-1, *self.event_shape) for each in rows)
        return Splits(train, val, test, source=str(source))


def _parse(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Text of n lines with d digits, 0 or 1, and a space between two: uint8 (n, d)."""
    n_rows, n_digits = shape
    with reading(path):
        text = np.fromfile(path, dtype=np.uint8)
    if text.size != 2 * n_rows * n_digits:
        raise UsageError(
            f"{path}: expected {n_rows} lines of {n_digits} digits with a space between two, "
            f"{2 * n_rows * n_digits} bytes; got {text.size}"
        )
    text = text.reshape(n_rows, n_digits, 2)
    spaces, ends = text[:, :-1, 1], text[:, -1, 1]
    if (spaces != ord(" ")).any() or (ends != ord("\n")).any():
        raise UsageError(f"{path}: expected digits with one space between two, got other text")
    digits = text[..., 0] - np.uint8(ord("0"))
    if digits.max() > 1:
        raise UsageError(f"{path}: expected digits 0 and 1, got others")
    return digits


def _unpack(path: Path, shapes: list[tuple[int, int]]) -> list[np.ndarray]:
    """Eight digits a byte, the first in the highest bit: uint8 (n, d) for each split."""
    rows = []
    with reading(path), np.load(path, allow_pickle=False) as packed:
        for split, (n_rows, n_digits) in zip(MD5S, shapes, strict=True):
            bits, shape = packed[split], (n_rows, -(-n_digits // 8))
            if bits.shape != shape or bits.dtype != np.uint8:
                raise UsageError(
                    f"{path}: expected {split} as uint8 of shape {shape}, got {bits.dtype} of "
                    f"shape {bits.shape}"
                )
            rows.append(np.ascontiguousarray(np.unpackbits(bits, axis=1, count=n_digits)))
    return rows
