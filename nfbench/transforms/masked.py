"""Coupling transform of the two colors of a checkerboard."""

import torch
from torch import Tensor, nn

from .base import Transform
from .elementwise import Elementwise


class MaskedCoupling(Transform):
    """``z = b x + (1 - b) f(x; net(b x))`` with a checkerboard b (Dinh et al. 2016, equation 9).

    log_det is the sum of f's over the pixels that it maps. b is 1 where row + column is odd, or
    even if ``swap``.

    Args:
        conditioner: from (B, C, H, W), zero where it is mapped, and a context to the parameters of
            the map, each (B, C, H, W).
        elementwise: the map f.
        space: H and W.
    """

    passes = inverse_passes = 1
    fixed: Tensor

    def __init__(
        self,
        conditioner: nn.Module,
        elementwise: Elementwise,
        *,
        space: tuple[int, int],
        swap: bool = False,
    ) -> None:
        super().__init__()
        self.conditioner, self.elementwise = conditioner, elementwise
        self.register_buffer("fixed", checkerboard(space, swap=swap), persistent=False)

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
