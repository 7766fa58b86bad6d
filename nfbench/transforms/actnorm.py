"""Activation normalization: scale and shift that start from the first batch."""

import torch
from torch import Tensor

from nfbench.nets.first_batch import FirstBatch

from .base import Transform, check_width


class ActNorm(FirstBatch, Transform):
    """``z = exp(s) x + b`` for each feature, of mean 0 and variance 1 over the first batch.

    log_det = n_pixels sum_d s_d: the features are those of a vector (B, D), or the channels of an
    image (B, C, H, W) (Kingma & Dhariwal 2018, section 3.1).
    """

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Normalize data (B, D) or (B, C, H, W)."""
        check_width(x, len(self.bias))
        if self.is_waiting:
            self.set_from(x)
        log_gain, bias = self.fit(x)
        return x * log_gain.exp() + bias, self.log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Undo the normalization."""
        check_width(z, len(self.bias))
        log_gain, bias = self.fit(z)
        return (z - bias) * torch.exp(-log_gain), -self.log_det(z)

    def fit(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """s and b in a shape that fits ``x``."""
        shape = [-1, *[1] * (x.dim() - 2)]
        return self.log_gain.view(shape), self.bias.view(shape)

    def log_det(self, x: Tensor) -> Tensor:
        """log|det dz/dx|, the same number for every row."""
        return (x.shape[2:].numel() * self.log_gain.sum()).expand(x.shape[0])
