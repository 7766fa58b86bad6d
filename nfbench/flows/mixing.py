"""How the dimensions are mixed between the layers of a flow."""

from collections.abc import Callable, Sequence

import torch

from nfbench.transforms.base import Transform
from nfbench.transforms.lu import LULinear
from nfbench.transforms.orthogonal import Orthogonal
from nfbench.transforms.permute import Permute


def shuffle(features: int) -> Permute:
    """A random order, drawn once."""
    return Permute(torch.randperm(features).tolist())


MIXINGS: dict[str, Callable[[int], list[Transform]]] = {
    "none": lambda features: [],
    "reverse": lambda features: [Permute(list(range(features))[::-1])],
    "permutation": lambda features: [shuffle(features)],
    "orthogonal": lambda features: [Orthogonal(features)],
    "lu": lambda features: [LULinear(features)],
    "linear": lambda features: [shuffle(features), LULinear(features)],
}


def mix(kind: str, features: int) -> list[Transform]:
    """The transforms that mix ``features`` dimensions in the way named, one of ``MIXINGS``."""
    return MIXINGS[kind](features)


def halves(flow: str, features: int) -> tuple[int, int]:
    """The numbers of dimensions in the halves of a coupling, the larger first.

    Raises:
        ValueError: if there is nothing to split.
    """
    if features < 2:
        raise ValueError(
            f"{flow}: expected at least 2 dimensions to split in halves, got {features}"
        )
    return features - features // 2, features // 2


def image_shape(flow: str, event_shape: Sequence[int], factor: int) -> tuple[int, int, int]:
    """Channels, height and width of images whose sides ``factor`` divides.

    Raises:
        ValueError: if the events are no such images.
    """
    shape = tuple(event_shape)
    if len(shape) != 3 or shape[1] % factor or shape[2] % factor:
        raise ValueError(
            f"{flow}: expected images (C, H, W) with sides that {factor} divides, got events of "
            f"shape {shape}; fewer levels, or padded images, would fit"
        )
    return shape
