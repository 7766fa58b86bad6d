"""A constant less."""

from torch import Tensor

from .base import Transform, no_volume_change


class Shift(Transform):
    """``z = x - shift``; log_det = 0.

    With shift = 1/2 pixels in [0, 1) are centered (Kingma & Dhariwal 2018, authors' code).
    """

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Shift data (B, *event)."""
        return x - self.shift, no_volume_change(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Shift back (B, *event)."""
        return z + self.shift, no_volume_change(z)
