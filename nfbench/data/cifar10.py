"""CIFAR-10: 60,000 photographs, 32 x 32 pixels, ten classes (Krizhevsky, 2009)."""

import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np

from .dataset import Dataset, File, Source, Splits
from .files import reading
from .pickled import unpack_batch

ADDRESS = "https://www.cs.toronto.edu/~kriz/"
NAMES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
SHAPE = (3, 32, 32)


@dataclass(frozen=True, kw_only=True)
class Cifar10(Dataset):
    """Images (3, 32, 32) of 256 levels and their labels 0 to 9.

    Splits in the order of the files: the last images of the five training batches are for
    validation, how many is the papers' choice; the sixth batch is the test set.
    """

    event_shape: tuple[int, ...] = SHAPE
    levels: int | None = 256
    n_classes: int | None = 10
    sources: tuple[Source, ...] = (
        Source(
            files=(
                File(
                    "cifar10/cifar-10-binary.tar.gz",
                    url=f"{ADDRESS}cifar-10-binary.tar.gz",
                    checksum="md5:c32a1d4ab5d03f1284b67883e8d87530",
                ),
            ),
            about="the published records (162 MB)",
        ),
        Source(
            files=(
                File(
                    "cifar10/cifar-10-python.tar.gz",
                    url=f"{ADDRESS}cifar-10-python.tar.gz",
                    checksum="md5:c58f30108f718f92721af3b95e74349a",
                ),
            ),
            about="the published pickles (163 MB), which are read without unpickling",
        ),
        Source(
            files=tuple(File(f"cifar10/cifar-10-batches-py/{name}") for name in NAMES),
            about="the published pickles, unpacked, as torchvision leaves them",
        ),
    )

    def read(self, root: Path, seed: int) -> Splits:
        """Read and cut the images, uint8 (n, 3, 32, 32), and labels (n,), whatever the seed."""
        source = self.find(root)
        *batches, (test, test_labels) = read_batches(source.paths(root))
        rows, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        n_train = self.sizes[0]
        parts = (labels[:n_train], labels[n_train:], test_labels)
        return Splits(
            rows[:n_train],
            rows[n_train:],
            test,
            source=str(source),
            labels=dict(zip(Splits.NAMES, parts, strict=True)),
        )


@dataclass(frozen=True, kw_only=True)
class Cifar10Subset(Dataset):
    """The first 4,000 images (3, 32, 32) of CIFAR-10's first training batch, and their labels.

    Cut in file order. They are training images, and a tenth of them: numbers on these splits are
    neither CIFAR-10 test numbers nor comparable with any.
    """

    name: str = "cifar10_subset"
    title: str = "CIFAR-10, first 4,000 training images"
    event_shape: tuple[int, ...] = SHAPE
    sizes: tuple[int, int, int] = (3_200, 400, 400)
    levels: int | None = 256
    n_classes: int | None = 10
    sources: tuple[Source, ...] = (
        Source(
            files=(
                File(
                    "cifar10_subset/cifar10_train_first4000.npz",
                    checksum="sha256:"
                    "f21ba659b327871ec330654ccdc95e0da52b1b39c04c467a581440516466148c",
                ),
            ),
            about="images (4000, 32, 32, 3) and labels (4000,), uint8",
        ),
    )
    known: Mapping[str, str] = field(
        default_factory=lambda: {
            "cifar10_subset/cifar10_train_first4000.npz": (
                "c9c135bbdc46527592455515d0c58352846ababbf2b8be670860f0750bf80957"
            ),
            "cifar10_subset/cifar10_train_first4000.npz with labels": (
                "35741636955d1bbc2c54cb27e26794d2f35eec167bf58b915e679c07c58b6a07"
            ),
        }
    )

    def read(self, root: Path, seed: int) -> Splits:
        """Read and cut the images, uint8 (n, 3, 32, 32), and labels (n,), whatever the seed."""
        source = self.find(root)
        (path,) = source.paths(root)
        with reading(path), np.load(path, allow_pickle=False) as file:
            images = np.ascontiguousarray(file["images"].transpose(0, 3, 1, 2))
            labels = file["labels"].astype(np.int64)
        cuts = np.cumsum(self.sizes)[:-1]
        train, val, test = np.split(images, cuts)
        named = dict(zip(Splits.NAMES, np.split(labels, cuts), strict=True))
        return Splits(train, val, test, source=str(source), labels=named)


def read_batches(paths: Sequence[Path]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images (n, 3, 32, 32) and labels (n,) of the six batches, from an archive or six files.

    Raises:
        UsageError: a broken file, a batch that is missing or is none.
    """
    with reading(paths[0]):
        if len(paths) > 1:
            contents = {path.name: path.read_bytes() for path in paths}
        else:
            with tarfile.open(paths[0]) as tar:
                files = {PurePosixPath(member.name).name: member for member in tar}
                contents = {
                    name: file.read()
                    for name, member in files.items()
                    if name.removesuffix(".bin") in NAMES and (file := tar.extractfile(member))
                }
        parts = {name.removesuffix(".bin"): parse(name, contents[name]) for name in contents}
        if missing := [name for name in NAMES if name not in parts]:
            raise ValueError(f"no {', '.join(missing)} in it")
    return [parts[name] for name in NAMES]


def parse(name: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 3, 32, 32) and labels (n,) of a batch, a pickle or bytes.

    Of bytes there are 3,073 a record: the label, then the red, green and blue pixels by row.
    """
    if name.endswith(".bin"):
        records = np.frombuffer(content, dtype=np.uint8).reshape(-1, 1 + np.prod(SHAPE))
        images, labels = records[:, 1:], records[:, 0]
    else:
        images, labels = unpack_batch(BytesIO(content))
    return np.ascontiguousarray(images).reshape(-1, *SHAPE), labels.astype(np.int64)


CIFAR10 = Cifar10(name="cifar10", title="CIFAR-10", sizes=(45_000, 5_000, 10_000))
CIFAR10_40K = Cifar10(
    name="cifar10_40k", title="CIFAR-10, 40,000 to train", sizes=(40_000, 10_000, 10_000)
)
