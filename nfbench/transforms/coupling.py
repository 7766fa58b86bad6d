"""Coupling transform: one half of the dimensions is mapped given the other half."""

import torch
from torch import Tensor, nn

from .base import Transform, no_volume_change
from .elementwise import Elementwise, Parameters


class Coupling(Transform):
    """``z_B = f(x_B; net(x_A)), z_A = g(x_A)`` (Dinh et al. 2016, equations 4-9, where g(x) = x).

    A is the first ``n_first`` dimensions and B the rest, or the other way round if ``swap``; a
    permutation before the first coupling makes of the two any halves. Contiguous halves are views:
    nothing is masked or gathered. Of images (B, C, H, W) the channels are split.

    Args:
        conditioner: from (B, |A|) and a context to the parameters of the map, each (B, |B|); from
            (B, |A|, H, W) to (B, |B|, H, W) for images.
        elementwise: the map f.
        unconditional: the map g of the half that conditions; the identity unless given.
    """

    passes = inverse_passes = 1

    def __init__(
        self,
        conditioner: nn.Module,
        elementwise: Elementwise,
        *,
        n_first: int,
        swap: bool = False,
        unconditional: "Unconditional | None" = None,
    ) -> None:
        super().__init__()
        self.conditioner, self.elementwise = conditioner, elementwise
        self.unconditional = unconditional
        self.n_first, self.swap = n_first, swap

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The fixed half A and the mapped half B."""
        first, rest = x[:, : self.n_first], x[:, self.n_first :]
        return (rest, first) if self.swap else (first, rest)

    def join(self, *leaves: Tensor) -> Tensor:
        """Put the fixed and the mapped half back in their places."""
        fixed, mapped = leaves
        return torch.cat((mapped, fixed) if self.swap else (fixed, mapped), dim=1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data (B, D) to noise in one pass."""
        fixed, mapped = self.split(x)
        return self.map(fixed, mapped, self.conditioner(fixed, context))

    def map(self, fixed: Tensor, mapped: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Map both halves of data; return the noise and log|det dz/dx| (B,)."""
        mapped, log_det = self.elementwise(mapped, parameters)
        total = log_det.flatten(1).sum(1)
        if self.unconditional is not None:
            fixed, log_det = self.unconditional(fixed)
            total = total + log_det.flatten(1).sum(1)
        return self.join(fixed, mapped), total

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map noise (B, D) to data in one pass."""
        fixed, mapped = self.split(z)
        total = no_volume_change(z)
        if self.unconditional is not None:
            fixed, log_det = self.unconditional.inverse(fixed)
            total = log_det.flatten(1).sum(1)
        mapped, log_det = self.elementwise.inverse(mapped, self.conditioner(fixed, context))
        return self.join(fixed, mapped), total + log_det.flatten(1).sum(1)

    def retrace(
        self, z: Tensor, context: Tensor | None = None
    ) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """As for any transform, the conditioner evaluated once for both ways."""
        fixed, mapped = self.split(z)
        if self.unconditional is not None:
            with torch.no_grad():
                fixed, _ = self.unconditional.inverse(fixed)
        with torch.enable_grad():
            fixed = fixed.detach().requires_grad_()
            parameters = self.conditioner(fixed, context)
        with torch.no_grad():
            mapped, _ = self.elementwise.inverse(mapped, parameters)
        with torch.enable_grad():
            mapped = mapped.detach().requires_grad_()
            return (fixed, mapped), *self.map(fixed, mapped, parameters)


class Unconditional(nn.Module):
    """A map of each dimension with parameters that are the same for all rows, zeros at first
    (Durkan et al. 2019, where a coupling's first half is mapped so).
    """

    def __init__(self, elementwise: Elementwise, features: int) -> None:
        super().__init__()
        self.elementwise = elementwise
        self.values = nn.Parameter(torch.zeros(elementwise.n_parameters, 1, features))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x`` (B, D); return z and log|dz/dx|, shaped as x."""
        return self.elementwise(x, self.values)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``z`` (B, D) back; return x and log|dx/dz|, shaped as z."""
        return self.elementwise.inverse(z, self.values)


class ShiftAndScale(nn.Module):
    """Two separate networks, one for the shift and one for the raw scale; each gives (1, B, D)."""

    def __init__(self, shift: nn.Module, scale: nn.Module) -> None:
        super().__init__()
        self.shift, self.scale = shift, scale

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return shift and raw scale, each (B, D)."""
        return self.shift(x, context)[0], self.scale(x, context)[0]
