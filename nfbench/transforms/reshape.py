"""Images as vectors."""

from collections.abc import Sequence

from torch import Tensor

from .base import Transform, no_volume_change


class Flatten(Transform):
    """Lay an event of any shape out as a vector; log_det = 0."""

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, *event) -> (B, D)."""
        return x.flatten(1), no_volume_change(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, D) -> (B, *event)."""
        return z.reshape(-1, *self.event_shape), no_volume_change(z)
