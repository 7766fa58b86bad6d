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

    magnitude: Tensor

    def __init__(
        self, n_in: int, n_out: int, kernel: int, *, bias: bool = True, magnitude: bool = False
    ) -> None:
        super().__init__()
        bound = math.sqrt(2 / n_in)
        weight = torch.empty(n_out, n_in, kernel, kernel).uniform_(-bound, bound)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(n_out)) if bias else None
        start = bound * kernel * math.sqrt(n_in / 12)
        if magnitude:
            self.magnitude = nn.Parameter(torch.full((n_out,), start))
        else:
            self.register_buffer("magnitude", torch.ones(n_out), persistent=False)

    @property
    def normalized(self) -> Tensor:
        """g v / |v|, of the shape of v, by the one operation that torch has for it."""
        weight: Tensor = torch._weight_norm(self.weight, self.magnitude.view(-1, 1, 1, 1), 0)
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, n_in, H, W)."""
        return F.conv2d(x, self.normalized, self.bias, padding=self.weight.shape[-1] // 2)
