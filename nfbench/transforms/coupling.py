"""Coupling transform: one half of the dimensions is mapped given the other half."""

import torch
from torch import Tensor, nn

from .base import Transform
from .elementwise import Elementwise


class Coupling(Transform):
    """``z_B = f(x_B; net(x_A)), z_A = x_A`` over alternate dimensions (Dinh et al. 2016, equations 4-9).

    A is the even dimensions, or the odd ones if ``swap``. ``conditioner`` maps (B, |A|) and a context to
    parameters (P, B, |B|).
    """

    def __init__(self, conditioner: nn.Module, elementwise: Elementwise, *, swap: bool = False) -> None:
        super().__init__()
        self.conditioner, self.elementwise, self.swap = conditioner, elementwise, swap

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The fixed half A and the mapped half B."""
        even, odd = x[:, ::2], x[:, 1::2]
        return (odd, even) if self.swap else (even, odd)

    def join(self, fixed: Tensor, mapped: Tensor) -> Tensor:
        """Put the halves back in their places."""
        even, odd = (mapped, fixed) if self.swap else (fixed, mapped)
        x = mapped.new_empty(even.shape[0], even.shape[1] + odd.shape[1])
        x[:, ::2], x[:, 1::2] = even, odd
        return x

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data (B, D) to noise in one pass."""
        fixed, mapped = self.split(x)
        mapped, log_det = self.elementwise(mapped, self.conditioner(fixed, context))
        return self.join(fixed, mapped), log_det.sum(1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map noise (B, D) to data in one pass."""
        fixed, mapped = self.split(z)
        mapped, log_det = self.elementwise.inverse(mapped, self.conditioner(fixed, context))
        return self.join(fixed, mapped), log_det.sum(1)


class ShiftAndScale(nn.Module):
    """Two separate networks, one for the shift and one for the raw scale: parameters (2, B, D)."""

    def __init__(self, shift: nn.Module, scale: nn.Module) -> None:
        super().__init__()
        self.shift, self.scale = shift, scale

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return (shift, raw scale), each network giving (1, B, D)."""
        return torch.cat([self.shift(x, context), self.scale(x, context)])
