"""Pixels on another interval."""

import math

from torch import Tensor

from .base import Transform
from .tolerance import check_positive


class Rescale(Transform):
    """``z = scale x - shift``; log_det = D log(scale).

    Pixels in [0, 1) are centered by shift = 1/2 (Kingma & Dhariwal 2018, authors' code), and on
    [-1, 1) with scale 2 and shift 1 (Dinh et al. 2014, authors' configuration for CIFAR-10).

    Raises:
        ValueError: if ``scale`` is not positive and finite.
    """

    def __init__(self, scale: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        check_positive(**{"preprocess.scale": scale})
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Rescale data (B, *event)."""
        return self.scale * x - self.shift, self.log_det(x, 1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scale back (B, *event)."""
        return (z + self.shift) / self.scale, self.log_det(z, -1)

    def log_det(self, x: Tensor, sign: int) -> Tensor:
        """sign * D log(scale) for every row."""
        return x.new_full((x.shape[0],), sign * x.shape[1:].numel() * math.log(self.scale))
