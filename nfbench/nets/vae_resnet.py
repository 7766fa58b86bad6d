"""The convolutional residual encoder and decoder of Kingma et al. 2016 for MNIST."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch.nn.functional as F
from torch import Tensor, nn

from .normalized import NormalizedConv, NormalizedDeconv, NormalizedLinear, halved

CHANNELS = (16, 32, 32)  # behind each block that halves the sides


class ResidualBlock(nn.Module):
    """``S x + W_2 elu(W_1 x)``, S the identity where the shape stays."""

    def __init__(self, skip: nn.Module, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.skip, self.first, self.second = skip, first, second

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, n_in, H, W) to (B, n_out, H', W')."""
        mapped: Tensor = self.skip(x) + self.second(F.elu(self.first(x)))
        return mapped


class ResNetEncoder(nn.Module):
    """Features of images: (B, C, H, W) on [0, 1] -> (B, features).

    Residual blocks of 3x3 convolutions that halve the sides, to 16, 32 and 32 channels, between
    each two of them a block that does not, and a linear layer; ELU behind each, all weights
    normalized, all layers started from the first batch (Kingma et al. 2016, appendix B).

    Raises:
        ValueError: if the events are not images (C, H, W).
    """

    def __init__(self, event_shape: Sequence[int], *, features: int = 450) -> None:
        super().__init__()
        sizes = map_sizes(event_shape)
        blocks: list[ResidualBlock] = []
        for n_in, n_out in pairwise([event_shape[0], *CHANNELS]):
            blocks += [plain(n_in)] if blocks else []
            blocks.append(halving(n_in, n_out))
        self.blocks = nn.ModuleList(blocks)
        self.last = NormalizedLinear(CHANNELS[-1] * prod(sizes[-1]), features)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to (B, features)."""
        for block in self.blocks:
            x = F.elu(block(x))
        return F.elu(self.last(x.flatten(1)))


class ResNetDecoder(nn.Module):
    """Parameters of each dimension of images: (B, latent) -> (B, n_parameters, C, H, W).

    The encoder backwards: two linear layers, and residual blocks that double the sides by
    transposed convolutions; no ELU behind the last (Kingma et al. 2016, appendix B).

    Raises:
        ValueError: if the events are not images (C, H, W).
    """

    def __init__(
        self,
        latent: int,
        event_shape: Sequence[int],
        *,
        features: int = 450,
        n_parameters: int = 1,
    ) -> None:
        super().__init__()
        *sizes, smallest = map_sizes(event_shape)
        self.parameters_shape = (n_parameters, event_shape[0])
        self.first_shape = (CHANNELS[-1], *smallest)
        self.first = NormalizedLinear(latent, features)
        self.second = NormalizedLinear(features, prod(self.first_shape))
        widths = pairwise([*reversed(CHANNELS), prod(self.parameters_shape)])
        blocks: list[ResidualBlock] = []
        for (n_in, n_out), size in zip(widths, reversed(sizes), strict=True):
            blocks += [plain(n_in)] if blocks else []
            blocks.append(doubling(n_in, n_out, size))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, z: Tensor) -> Tensor:
        """Map (B, latent) to (B, n_parameters, C, H, W)."""
        h = self.second(F.elu(self.first(z))).unflatten(1, self.first_shape)
        for block in self.blocks:
            h = block(F.elu(h))
        return h.unflatten(1, self.parameters_shape)


def plain(channels: int) -> ResidualBlock:
    """A block that keeps the shape."""
    first, second = (NormalizedConv(channels, channels) for _ in range(2))
    return ResidualBlock(nn.Identity(), first, second)


def halving(n_in: int, n_out: int) -> ResidualBlock:
    """A block that halves the sides, in its first convolution and beside."""
    skip, first = (NormalizedConv(n_in, n_out, halve=True) for _ in range(2))
    return ResidualBlock(skip, first, NormalizedConv(n_out, n_out))


def doubling(n_in: int, n_out: int, size: Sequence[int]) -> ResidualBlock:
    """``halving`` backwards, to this height and width."""
    skip, second = (NormalizedDeconv(n_in, n_out, size=size) for _ in range(2))
    return ResidualBlock(skip, NormalizedConv(n_in, n_in), second)


def map_sizes(event_shape: Sequence[int]) -> list[tuple[int, ...]]:
    """Height and width of an image, and behind each block that halves them.

    Raises:
        ValueError: if the events are not images (C, H, W).
    """
    if len(event_shape) != 3:
        raise ValueError(
            "event_shape: expected images (C, H, W) for the networks resnet, got "
            f"{tuple(event_shape)}; mlp and maxout take any shape"
        )
    sizes = [tuple(event_shape[1:])]
    for _ in CHANNELS:
        sizes.append(halved(sizes[-1]))
    return sizes
