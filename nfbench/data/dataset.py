"""What a data set is: named splits of checked arrays, and where their files come from."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import ClassVar

import numpy as np
import platformdirs

from nfbench.errors import UsageError

BLOCK_BYTES = 2**24


class MissingDataError(UsageError):
    """A data set has no files here; the message names what was looked for and what provides it."""


@dataclass(frozen=True)
class Splits:
    """Training, validation and test examples, each (n, *event_shape), float32 or uint8.

    `source` names the files that were read; `labels` are (n,) per split where a set has them.
    Arrays may be memory-mapped (`np.memmap`), read-only; they are then never held in memory whole.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    source: str = "generated"
    labels: Mapping[str, np.ndarray] | None = None

    NAMES: ClassVar[tuple[str, str, str]] = ("train", "val", "test")

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by the names of their splits, in order."""
        return {"train": self.train, "val": self.val, "test": self.test}


@dataclass(frozen=True)
class File:
    """A file below the data root; `url` serves it, `checksum` is "sha256:..." or "md5:...".

    One that nobody publishes as it is read here is made by `convert(path, file)` from the first
    of `raw`, files or folders below the data root, that is there.
    """

    name: str
    url: str | None = None
    checksum: str | None = None
    raw: tuple[str, ...] = ()
    convert: Callable[[Path, Path], None] | None = None

    def origin(self, root: Path) -> Path | None:
        """Itself or else what it can be made from below the data root `root`; None without."""
        paths = (root / name for name in (self.name, *self.raw))
        return next((path for path in paths if path.exists()), None)


@dataclass(frozen=True)
class Source:
    """One way to have a data set: files below the data root, all of them needed.

    They are downloaded one by one or, where there is an `archive`, out of that: a tar that holds
    them, or what they are made from, below `prefix`.
    """

    files: tuple[File, ...]
    about: str
    archive: File | None = None
    prefix: str = ""

    def __str__(self) -> str:
        return " + ".join(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its files."""
        return tuple(file.name for file in self.files)

    @property
    def downloads(self) -> tuple[File, ...]:
        """What is fetched to have them: the archive, or each of them."""
        return (self.archive,) if self.archive else self.files

    @property
    def is_served(self) -> bool:
        """Whether addresses serve all of it."""
        return all(file.url for file in self.downloads)

    def paths(self, root: Path) -> list[Path]:
        """The paths of its files below the data root `root`."""
        return [root / name for name in self.names]

    def is_in(self, root: Path) -> bool:
        """Whether all its files are below the data root `root`."""
        return all(path.is_file() for path in self.paths(root))

    def is_at_hand(self, root: Path) -> bool:
        """Whether all its files are below the data root `root`, or can be made from what is."""
        return all(file.origin(root) for file in self.files)


@dataclass(frozen=True, kw_only=True)
class Dataset(ABC):
    """A named set of train, validation and test arrays.

    A subclass provides `read`. `levels` is the number of values a dimension can take in discrete
    data, `n_classes` that of labels, `sources` stand in order of preference, and `known` maps a
    source to the fingerprint that its splits have; `deviations`, which stand beside its numbers,
    say how it differs from what papers name so. Where it is `stochastic`, training images are
    probabilities k / 255, k in 0..255, from which each batch is drawn: of 0 and 1, `levels` 2.
    """

    name: str
    title: str
    event_shape: tuple[int, ...]
    sizes: tuple[int, int, int]
    levels: int | None = None
    stochastic: bool = False
    n_classes: int | None = None
    sources: tuple[Source, ...] = ()
    known: Mapping[str, str] = field(default_factory=dict)
    deviations: tuple[str, ...] = ()

    density_known: ClassVar[bool] = False

    @property
    def n_dims(self) -> int:
        """The number of dimensions that bits/dim are a mean over."""
        return prod(self.event_shape)

    @abstractmethod
    def read(self, root: Path, seed: int) -> Splits:
        """Read or draw the splits; they are checked by `load`."""

    def load(self, root: Path | None = None, seed: int = 0) -> Splits:
        """The splits, read below `root` (default: `data_root()`) and checked.

        `seed` draws the generated sets, the patches of `bsds300_redrawn`, and the splits of files
        whose published split does.
        Raises `MissingDataError` without its files, `UsageError` on files that do not hold it.
        """
        splits = self.read(data_root() if root is None else root, seed)
        self._check(splits)
        return splits

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """The true log-density, x (n, *event_shape) -> (n,) float64, in nats."""
        raise UsageError(f"{self.name}: the density of this data set is not known")

    def find(self, root: Path) -> Source:
        """The preferred source among those that are there."""
        for source in self.sources:
            if source.is_in(root):
                return source
        raise MissingDataError(_missing(self, root))

    def _check(self, splits: Splits) -> None:
        dtype = np.dtype(np.float32 if self.levels is None else np.uint8)
        for (split, array), size in zip(splits.arrays.items(), self.sizes, strict=True):
            where = f"{self.name}: {split} from {splits.source}"
            shape = (size, *self.event_shape)
            if array.shape != shape or array.dtype != dtype:
                raise UsageError(
                    f"{where}: expected {dtype} of shape {shape}, got {array.dtype} of shape "
                    f"{array.shape}; a part of the set, or another one, cannot stand for it"
                )
            levels = 256 if self.stochastic and split == "train" else self.levels
            # All values of a byte are finite, and below 256.
            for block in blocks(array) if levels != 256 else ():
                if not np.isfinite(block).all():
                    raise UsageError(f"{where}: expected finite values, got NaN or infinity")
                if levels is not None and block.max() >= levels:
                    raise UsageError(f"{where}: expected values below {levels}")


def data_root() -> Path:
    """The folder of the data files: NFBENCH_DATA, or nfbench/data in the user's cache."""
    if root := os.environ.get("NFBENCH_DATA"):
        return Path(root).expanduser()
    return platformdirs.user_cache_path("nfbench") / "data"


def fingerprint(splits: Splits, *, labels: bool = False) -> str:
    """SHA-256, in hex, over the names, dtypes, shapes and bytes of the three arrays.

    With `labels` over those of the labels too, so that it is another one.
    """
    digest = hashlib.sha256()
    named = [*splits.arrays.items(), *((splits.labels or {}).items() if labels else ())]
    for split, array in named:
        digest.update(f"{split} {array.dtype.str} {array.shape}\n".encode())
        for block in blocks(array):
            digest.update(np.ascontiguousarray(block).data)
    return digest.hexdigest()


def blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of an array, some megabytes at a time: a mapped one is never read whole."""
    n_rows = max(1, BLOCK_BYTES // max(1, array[:1].nbytes))
    return (array[i : i + n_rows] for i in range(0, len(array), n_rows))


def _missing(dataset: Dataset, root: Path) -> str:
    lines = [f"{dataset.name}: its files are not in the data root {root}. Looked for, any of:"]
    for source in dataset.sources:
        lines.append(f"  {source}: {source.about}")
        for file in source.files:
            if file.raw:
                raw = ", ".join(file.raw)
                command = f"nfbench data prepare {dataset.name}"
                lines.append(f"    {file.name} is made by `{command}` from one of: {raw}")
        if source.is_served:
            command = f"nfbench data prepare {dataset.name} --source {source.names[0]}"
            lines.append(f"    to download it: {command}")
    lines.append("Any of them can be put there by hand; NFBENCH_DATA moves the data root.")
    return "\n".join(lines)
