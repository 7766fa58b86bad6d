"""Numbers that are parameters, or a linear function of a context."""

import torch
from torch import Tensor, nn

from .init import NEAR_ZERO


class Amortized(nn.Module):
    """``value`` (*shape); with a context (B, C) ``value + context weight``, shape (B, *shape).

    ``value`` starts as ``initial``, the weight (C, *shape) close to zero.

    Raises:
        ValueError: when called, if a context is due and there is none.
    """

    def __init__(self, initial: Tensor, *, context_features: int = 0) -> None:
        super().__init__()
        self.value = nn.Parameter(initial)
        weight = NEAR_ZERO * torch.randn(context_features, *initial.shape, dtype=initial.dtype)
        self.weight = nn.Parameter(weight) if context_features else None

    def forward(self, context: Tensor | None = None) -> Tensor:
        """The numbers, for every row of a context if they depend on one."""
        if self.weight is None:
            return self.value
        if context is None:
            raise ValueError(f"context: expected rows of {len(self.weight)} features, got None")
        return self.value + torch.tensordot(context, self.weight, dims=1)
