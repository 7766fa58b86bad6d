"""Coupling transform of the two parts of a mask, such as the colors of a checkerboard."""

import torch
from torch import Tensor, nn

from .base import Transform
from .elementwise import Elementwise


class MaskedCoupling(Transform):
    """``z = b x + (1 - b) f(x; net(b x))`` with a mask b (Dinh et al. 2016, equation 9).

    log_det is the sum of f's over what it maps.

    Args:
        conditioner: from (B, C, H, W), zero where it is mapped, and a context to the parameters of
            the map, each (B, C, H, W).
        elementwise: the map f.
        fixed: b, 1 what is kept and 0 what is mapped, for each pixel (H, W), each channel
            (C, 1, 1) or each of both.
    """

    passes = inverse_passes = 1
    fixed: Tensor

    def __init__(self, conditioner: nn.Module, elementwise: Elementwise, fixed: Tensor) -> None:
        super().__init__()
        self.conditioner, self.elementwise = conditioner, elementwise
        self.register_buffer("fixed", fixed, persistent=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data (B, C, H, W) to noise in one pass."""
        parameters = self.conditioner(x * self.fixed, context)
        return self.merge(x, *self.elementwise(x, parameters))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map noise (B, C, H, W) to data in one pass."""
        parameters = self.conditioner(z * self.fixed, context)
        return self.merge(z, *self.elementwise.inverse(z, parameters))

    def merge(self, x: Tensor, mapped: Tensor, log_det: Tensor) -> tuple[Tensor, Tensor]:
        """What is kept of ``x`` between what is mapped; the log-determinant of the latter."""
        is_fixed = self.fixed > 0
        log_dets = log_det.masked_fill(is_fixed, 0.0).flatten(1).sum(1)
        return torch.where(is_fixed, x, mapped), log_dets


def checkerboard(space: tuple[int, int], *, swap: bool = False) -> Tensor:
    """1 where row + column is odd, else 0, (H, W); the other way round if ``swap``."""
    rows, columns = (torch.arange(side) for side in space)
    return ((rows[:, None] + columns + swap) % 2).to(torch.get_default_dtype())


def first_half(channels: int, *, swap: bool = False) -> Tensor:
    """1 for the first half of the channels, else 0, (C, 1, 1); the other way round if ``swap``."""
    is_first = torch.arange(channels) < channels // 2
    return (is_first != swap).to(torch.get_default_dtype()).view(-1, 1, 1)
