"""Linear layers with activations between, or residual blocks: the inside of MLP and MADE."""

from collections.abc import Iterable, Sequence

import torch.nn.functional as F
from torch import Tensor

from .activations import ACTIVATIONS


def check_blocks(hidden: Sequence[int], residual: bool, dropout: float) -> None:
    """Check that hidden layers are one and two for each residual block, all of one width.

    Raises:
        ValueError: if they are not, or if dropout is no fraction, or without such blocks.
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout: expected a number in [0, 1), got {dropout}")
    if not residual:
        if dropout:
            raise ValueError(
                f"dropout: expected 0 without residual blocks, which alone have it; got {dropout}"
            )
        return
    if len(hidden) % 2 == 0 or len(set(hidden)) > 1:
        raise ValueError(
            "hidden: expected an odd number of layers of one width for residual blocks, "
            f"got {tuple(hidden)}"
        )


def chain(
    x: Tensor,
    weights: Iterable[Tensor],
    biases: Iterable[Tensor],
    activation: str,
    offset: Tensor | None = None,
    *,
    residual: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """``W_n a(... a(W_1 x + b_1 + offset) ...) + b_n`` for x (B, in).

    ``offset`` (B, hidden) is a context's part. If ``residual``, each two layers between the first
    and the last form a block ``h + W' d(a(W a(h) + b)) + b'`` with dropout d of probability
    ``dropout``, and the last layer takes h as it is (He et al. 2016, as used by Durkan et al.
    2019).
    """
    activate = ACTIVATIONS[activation]
    first, *others = zip(weights, biases, strict=True)
    h = F.linear(x, *first)
    if offset is not None:
        h = h + offset
    if not residual:
        for layer in others:
            h = F.linear(activate(h), *layer)
        return h
    *inner, last = others
    for one, two in zip(inner[::2], inner[1::2], strict=True):
        h = h + F.linear(F.dropout(activate(F.linear(activate(h), *one)), dropout), *two)
    return F.linear(h, *last)
