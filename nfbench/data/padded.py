"""Images with a border, for flows that halve the sides several times."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .dataset import Dataset, Splits
from .mnist import MNIST


@dataclass(frozen=True, kw_only=True)
class Padded(Dataset):
    """Another set's images (C, H, W) with `border` rows and columns of zeros on every side.

    The border is known, so P(image, border) <= P(image): the log-likelihood is a lower bound on
    that of the image alone, and bits/dim are a mean over the image's own dimensions, without the
    border's. A mean over all of them would be smaller by their ratio for nothing.
    """

    images: Dataset
    border: int = 2

    @property
    def n_dims(self) -> int:
        """The dimensions of the image without its border."""
        return self.images.n_dims

    def read(self, root: Path, seed: int) -> Splits:
        """Read the images and lay the border around them."""
        splits = self.images.read(root, seed)
        widths = ((0, 0), (0, 0), (self.border,) * 2, (self.border,) * 2)
        train, val, test = (np.pad(array, widths) for array in splits.arrays.values())
        return replace(splits, train=train, val=val, test=test)


MNIST_PADDED = Padded(
    name="mnist_padded",
    title="MNIST in 32x32",
    images=MNIST,
    event_shape=(1, 32, 32),
    sizes=MNIST.sizes,
    levels=MNIST.levels,
    n_classes=MNIST.n_classes,
    sources=MNIST.sources,
    known={
        str(MNIST.sources[0]): "ea21539f806ed78770f19f76f6af6da8aefbdf939b76e934abbf13677806e860",
        f"{MNIST.sources[0]} with labels": (
            "87e72a93602a82915f2198751da458833067869ce1a06ff7a6a32bb94212e147"
        ),
    },
)
