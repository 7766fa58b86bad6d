"""Grey images taken for probabilities of 1, and binary images drawn from them."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .dataset import Dataset, Splits, blocks
from .mnist import MNIST

SEED = 777  # of the validation and test images, in the code of Tomczak & Welling (2018)


def draw(*probabilities: np.ndarray) -> list[np.ndarray]:
    """Binary images, uint8 of the same shapes, each pixel 1 with its probability.

    One stream, `RandomState(777)`, draws all of the first array, then of the next: validation
    before test, as published code does (J. Tomczak & M. Welling, 2018, VampPrior; R. van den Berg
    et al., 2018, Sylvester).
    """
    rng = np.random.RandomState(SEED)
    # Some rows at a time draw the same, without eight bytes for each pixel of all.
    return [
        np.concatenate([rng.binomial(1, rows).astype(np.uint8) for rows in blocks(array)])
        for array in probabilities
    ]


@dataclass(frozen=True, kw_only=True)
class Binarized(Dataset):
    """Another set's images of 256 grey levels as probabilities, grey / 255.

    Training images stay grey, for batches drawn afresh; validation and test are drawn once, with a
    seed of their own, by `draw`.
    """

    images: Dataset
    levels: int | None = 2
    stochastic: bool = True

    def read(self, root: Path, seed: int) -> Splits:
        """Read the images and draw those of validation and test."""
        splits = self.images.read(root, seed)
        val, test = draw(*(grey / np.float32(255) for grey in (splits.val, splits.test)))
        return replace(splits, val=val, test=test)


MNIST_DYNAMIC = Binarized(
    name="mnist_dynamic",
    title="MNIST, binarized anew",
    images=MNIST,
    event_shape=MNIST.event_shape,
    sizes=MNIST.sizes,
    n_classes=MNIST.n_classes,
    sources=MNIST.sources,
    known={
        str(MNIST.sources[0]): "b4a914b454fd3e60c5c190ebc3662f099b296c9fecea31bdc247739faccdb8c2",
        f"{MNIST.sources[0]} with labels": (
            "8658b2a671f25fffab2e4b4b16f9b40c922b0dd96549988a93c7fb8f5d819dd1"
        ),
    },
)
