"""Dimensions in another order."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Transform, check_width, no_volume_change


class Permute(Transform):
    """``z_i = x_order[i]``; log_det = 0.

    The order is part of the state, as it may have been drawn.

    Raises:
        ValueError: if ``order`` is not a permutation of 0..D-1; when called, if there are not D
            dimensions.
    """

    order: Tensor

    def __init__(self, order: Sequence[int]) -> None:
        super().__init__()
        if sorted(order) != list(range(len(order))):
            raise ValueError(
                f"order: expected a permutation of 0..{len(order) - 1}, got {list(order)}"
            )
        self.register_buffer("order", torch.tensor(order))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Reorder data (B, D)."""
        check_width(x, len(self.order))
        return x.index_select(1, self.order), no_volume_change(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Restore the order (B, D)."""
        check_width(z, len(self.order))
        return z.index_select(1, self.order.argsort()), no_volume_change(z)


def alternate(features: int) -> list[int]:
    """The even dimensions, then the odd ones: the order that makes alternate halves contiguous."""
    return [*range(0, features, 2), *range(1, features, 2)]
