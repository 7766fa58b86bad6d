"""Numbers that are parameters, or a linear function of a context."""

import torch
from torch import Tensor, nn

from .context import check_context
from .init import NEAR_ZERO


class Amortized(nn.Module):
    """``value`` (*shape); with a context (B, C) ``value + context weight``, shape (B, *shape).

    ``value`` starts as ``initial``, the weight (C, *shape) close to zero, so that what a context
    adds is N(0, 1e-4) if its numbers are of unit size, however many they are.

    Raises:
        ValueError: when called, if the context is not what ``context_features`` says.
    """

    def __init__(self, initial: Tensor, *, context_features: int = 0) -> None:
        super().__init__()
        self.context_features = context_features
        self.value = nn.Parameter(initial)
        self.weight = None
        if context_features:
            spread = NEAR_ZERO * context_features**-0.5
            weight = spread * torch.randn(context_features, *initial.shape, dtype=initial.dtype)
            self.weight = nn.Parameter(weight)

    def forward(self, context: Tensor | None = None) -> Tensor:
        """The numbers, for every row of a context if they depend on one."""
        check_context(context, self.context_features)
        if context is None or self.weight is None:
            return self.value
        return self.value + torch.tensordot(context, self.weight, dims=1)
