"""From integers to the unit interval."""

import math

import torch
from torch import Tensor

from .base import Transform


class Dequantize(Transform):
    """``z = (x + u) / levels`` with u ~ U[0, 1) for integers x in 0..levels-1; log_det = -D
    log(levels).

    The log-likelihood of the integers is then bounded from below, in expectation over u (Theis et
    al. 2016, equation 2): a uniform base gives exactly log2(levels) bits per dimension. The
    inverse rounds down.
    """

    likelihood = "lower bound"

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Add fresh uniform noise to integers (B, *event) and scale to [0, 1)."""
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        noisy = (x.to(dtype) + torch.rand(x.shape, dtype=dtype, device=x.device)) / self.levels
        # Rounding can carry the topmost value to 1 exactly.
        z = noisy.clamp(max=1 - torch.finfo(dtype).eps / 2)
        return z, self.log_det(z, -1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the integers, as floating-point numbers."""
        return (z * self.levels).floor().clamp(0, self.levels - 1), self.log_det(z, 1)

    def log_det(self, z: Tensor, sign: int) -> Tensor:
        """sign * D log(levels) for every row."""
        return z.new_full((z.shape[0],), sign * z[0].numel() * math.log(self.levels))
