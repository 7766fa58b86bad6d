"""Convolutions whose weights are normalized."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WeightNormConv(nn.Module):
    """``(g v / |v|) * x + b``, the norm over each output channel's weights v (Salimans & Kingma
    2016, equation 2), padded to the same size.

    v starts as U(-r, r), r^2 = 2 / n_in, b as 0 and the magnitudes g as r sqrt(n_in k^2 / 12);
    without ``magnitude`` g is 1 and not trained (authors' code of Dinh et al. 2016).
    """

    def __init__(
        self, n_in: int, n_out: int, kernel: int, *, bias: bool = True, magnitude: bool = False
    ) -> None:
        super().__init__()
        bound = math.sqrt(2 / n_in)
        weight = torch.empty(n_out, n_in, kernel, kernel).uniform_(-bound, bound)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(n_out)) if bias else None
        start = bound * kernel * math.sqrt(n_in / 12)
        self.magnitude = nn.Parameter(torch.full((n_out,), start)) if magnitude else None

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, n_in, H, W)."""
        gain = self.weight.square().sum((1, 2, 3)).rsqrt()
        if self.magnitude is not None:
            gain = gain * self.magnitude
        weight = self.weight * gain.view(-1, 1, 1, 1)
        return F.conv2d(x, weight, self.bias, padding=self.weight.shape[-1] // 2)
