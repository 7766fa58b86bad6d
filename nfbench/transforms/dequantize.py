"""From integers to the unit interval."""

import math

import torch
from torch import Tensor

from .base import Transform
from .row_noise import RowNoise


class Dequantize(Transform):
    """``z = (x + u) / levels``, u ~ U[0, 1), integers x in 0..levels-1; log_det = -D log(levels).

    The log-likelihood of the integers is then bounded from below, in expectation over u (Theis et
    al. 2016, equation 2): a uniform base gives exactly log2(levels) bits per dimension. The
    inverse rounds down.

    Args:
        levels: the number of values that each integer can have.
        once: u is the same whenever a row is seen, as if the data had been dequantized once,
            before training; else it is drawn anew.
    """

    likelihood = "lower bound"
    anchor: Tensor

    def __init__(self, levels: int, *, once: bool = False) -> None:
        super().__init__()
        self.levels = levels
        self.noise = RowNoise() if once else torch.rand_like
        # Integers have no floating-point type: the result takes that of the module.
        self.register_buffer("anchor", torch.empty(0), persistent=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Add uniform noise to integers (B, *event) and scale to [0, 1)."""
        x = x if x.is_floating_point() else x.to(self.anchor.dtype)
        z = into_cell(x, self.noise(x), self.levels)
        return z, -log_volume(z, self.levels)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the integers, as floating-point numbers."""
        return cell(z, self.levels), log_volume(z, self.levels)


def into_cell(x: Tensor, u: Tensor, levels: int) -> Tensor:
    """``(x + u) / levels`` for integers x and u in [0, 1], less than ``(x + 1) / levels``."""
    # Rounding can carry a value into the cell of the next integer, the topmost one to 1.
    below = (x + 1) * (1 - 2 * torch.finfo(x.dtype).eps) / levels
    return torch.minimum((x + u) / levels, below)


def cell(z: Tensor, levels: int) -> Tensor:
    """The integers in whose cells ``z`` lies, the nearest one for what lies outside [0, 1)."""
    return (z * levels).floor().clamp(0, levels - 1)


def log_volume(z: Tensor, levels: int) -> Tensor:
    """``D log(levels)`` for every row, in nats, shape (B,)."""
    return z.new_full((z.shape[0],), z.shape[1:].numel() * math.log(levels))
