"""One factor for each dimension."""

import torch
from torch import Tensor, nn

from .base import Transform, check_width


class DiagonalScaling(Transform):
    """``z = exp(s) x``; log_det = sum_d s_d (Dinh et al. 2014, section 3.3)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scale data (B, D)."""
        check_width(x, len(self.log_scale))
        return x * self.log_scale.exp(), self.log_scale.sum().expand(x.shape[0])

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Undo the scaling (B, D)."""
        check_width(z, len(self.log_scale))
        return z * torch.exp(-self.log_scale), -self.log_scale.sum().expand(z.shape[0])
