"""From the unit interval to the real line."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Transform


class Logit(Transform):
    """``z = logit(alpha + (1 - 2 alpha) x)``, x in [0, 1) (Papamakarios et al. 2017, section 4.3).

    log_det = sum_d [log(1 - 2 alpha) - log s_d - log(1 - s_d)] with s = alpha + (1 - 2 alpha) x.

    Raises:
        ValueError: if ``alpha`` is outside [0, 1/2).
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        if not 0 <= alpha < 0.5:
            raise ValueError(f"logit: expected alpha in [0, 0.5), got {alpha}")
        self.alpha = alpha

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map the unit interval (B, *event) to the real line."""
        s = self.alpha + (1 - 2 * self.alpha) * x
        # 1 - s would lose what is left of it in float32 where x is close to 1; 1 - x does not.
        z = torch.log(s) - torch.log(self.alpha + (1 - 2 * self.alpha) * (1 - x))
        return z, self.log_det(z)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map the real line to the unit interval; noise out of the logit's range lands outside."""
        return (torch.sigmoid(z) - self.alpha) / (1 - 2 * self.alpha), -self.log_det(z)

    def log_det(self, z: Tensor) -> Tensor:
        """log|det dz/dx| at the logit z: -log s - log(1 - s) = softplus(z) + softplus(-z)."""
        return (math.log(1 - 2 * self.alpha) + F.softplus(z) + F.softplus(-z)).flatten(1).sum(1)
