"""Convolutions whose weights are normalized."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def weight_norm(v: Tensor, g: Tensor, axis: int = 0) -> Tensor:
    """``g v / |v|``, shaped as v; the norm over all but an axis, of which g has a number for each.

    (Salimans & Kingma 2016, equation 2.)
    """
    g = g.view([-1 if each == axis else 1 for each in range(v.dim())])
    if v.dtype == torch.float64:  # of which torch's operation takes the root in float32 on a GPU
        return v * (g / torch.norm_except_dim(v, 2, axis))
    weight: Tensor = torch._weight_norm(v, g, axis)
    return weight


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
        """g v / |v|, of the shape of v."""
        return weight_norm(self.weight, self.magnitude)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, n_in, H, W)."""
        return F.conv2d(x, self.normalized, self.bias, padding=self.weight.shape[-1] // 2)
