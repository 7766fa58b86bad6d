"""SVHN: digits of house numbers, 32 x 32 pixels (Netzer et al., 2011), from MATLAB files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .dataset import Dataset, File, Source, Splits
from .files import reading
from .matlab import read_variables

MD5S = {
    "train": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "extra": "a93ce644f1a588dc4d68dda5feec44a7",
    "test": "eb5a983be6a315427106f1b164d9cef3",
}


@dataclass(frozen=True, kw_only=True)
class Svhn(Dataset):
    """Images (3, 32, 32) of 256 levels and the digit in the middle of each, 0 to 9.

    Validation: 400 images of each class of the training file and 200 of the extra file, drawn
    as Pylearn2 does (`RandomState(322)`). Training: the rest of the training file; the extra file
    gives no training images. NICE trains on the whole training file, by its published settings:
    on these and on 4,000 of the images that it validates on.
    """

    name: str = "svhn"
    title: str = "SVHN"
    event_shape: tuple[int, ...] = (3, 32, 32)
    sizes: tuple[int, int, int] = (69_257, 6_000, 26_032)
    levels: int | None = 256
    n_classes: int | None = 10
    sources: tuple[Source, ...] = (
        Source(
            files=tuple(
                File(
                    f"svhn/{split}_32x32.mat",
                    url=f"http://ufldl.stanford.edu/housenumbers/{split}_32x32.mat",
                    checksum=f"md5:{md5}",
                )
                for split, md5 in MD5S.items()
            ),
            about="the published files of cropped digits (1.6 GB)",
        ),
    )
    n_held_out: tuple[int, int] = (400, 200)

    def read(self, root: Path, seed: int) -> Splits:
        """Read and divide the images, uint8 (n, 3, 32, 32), and labels (n,), whatever the seed."""
        source = self.find(root)
        train, extra, test = source.paths(root)
        rng = np.random.RandomState(322)
        images, labels = read_mat(train)
        held_out = draw(labels, self.n_held_out[0], rng)
        extra_images, extra_labels = read_mat(extra)
        more = draw(extra_labels, self.n_held_out[1], rng)
        test_images, test_labels = read_mat(test)
        return Splits(
            np.delete(images, held_out, axis=0),
            np.concatenate([images[held_out], extra_images[more]]),
            test_images,
            source=str(source),
            labels={
                "train": np.delete(labels, held_out),
                "val": np.concatenate([labels[held_out], extra_labels[more]]),
                "test": test_labels,
            },
        )


def read_mat(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 3, 32, 32) and labels (n,), where the file has 10 for the digit 0.

    Raises:
        UsageError: a broken file, or one without them.
    """
    content = read_variables(path, "X", "y")
    with reading(path):
        images = np.ascontiguousarray(content["X"].transpose(3, 2, 0, 1))
        labels = content["y"].reshape(len(images)).astype(np.int64)
    return images, labels % 10


def draw(labels: np.ndarray, n: int, rng: np.random.RandomState) -> np.ndarray:
    """The numbers of n rows of each class, ascending; classes are drawn in the order 1 to 9, 0."""
    drawn = []
    for digit in (*range(1, 10), 0):
        rows = np.flatnonzero(labels == digit)
        rng.shuffle(rows)
        drawn.append(rows[:n])
    return np.sort(np.concatenate(drawn))


SVHN = Svhn()
