"""Linear layers with an activation between them: the inside of MLP and MADE."""

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor

from .activations import ACTIVATIONS


def chain(
    x: Tensor,
    weights: Iterable[Tensor],
    biases: Iterable[Tensor],
    activation: str,
    offset: Tensor | None = None,
) -> Tensor:
    """``W_n a(... a(W_1 x + b_1 + offset) ...) + b_n`` for x (B, in); ``offset`` (B, hidden) is a
    context's part.
    """
    activate = ACTIVATIONS[activation]
    h = x
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        h = F.linear(activate(h) if layer else h, weight, bias)
        if layer == 0 and offset is not None:
            h = h + offset
    return h
