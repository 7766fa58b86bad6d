"""A fixed rotation."""

import torch
from torch import Tensor, nn

from .base import Transform, no_volume_change


class Orthogonal(Transform):
    """``z = Q x`` with a random orthogonal matrix Q that is drawn once; log_det = 0.

    It mixes dimensions between couplings (Rezende & Mohamed 2015, section 6, for NICE). Q is
    uniform over the orthogonal group and part of the state.
    """

    multiplies = True
    matrix: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("matrix", nn.init.orthogonal_(torch.empty(features, features)))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Rotate data (B, D)."""
        return x @ self.matrix.t(), no_volume_change(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Rotate back (B, D)."""
        return z @ self.matrix, no_volume_change(z)
