"""From images of many levels to images of few."""

import torch
from torch import Tensor

from .base import Transform, no_volume_change


class Quantize(Transform):
    """``k' = floor(k / (levels / 2^bits))``: integers in 0..levels-1 to 0..2^bits-1; log_det = 0.

    Many to one: the likelihood behind it is that of the image of fewer bits, as published (Kingma
    & Dhariwal 2018, section 6), and is not one of the image that came in. The inverse scales back,
    to the least of the values that become k'; samples are thus images of 2^bits levels on the
    scale of the data, and ``forward`` gives each its k' again.

    Raises:
        ValueError: if ``levels`` is no multiple of 2^bits, or ``bits`` is less than 1.
    """

    def __init__(self, levels: int, bits: int) -> None:
        super().__init__()
        if bits < 1 or levels % 2**bits:
            raise ValueError(
                f"preprocess.bits: expected at least 1, and 2^bits to divide the {levels} levels "
                f"of the data; got {bits}"
            )
        self.levels, self.width = 2**bits, levels // 2**bits

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Integers (B, *event) to those of fewer levels, in their own dtype."""
        return torch.div(x, self.width, rounding_mode="floor"), no_volume_change(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Integers of few levels (B, *event) to the scale of the data."""
        return z * self.width, no_volume_change(z)
