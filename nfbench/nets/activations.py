"""The activations a recipe can name."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "tanh": F.tanh,
    "elu": F.elu,
    "silu": F.silu,
    "softplus": F.softplus,
}

IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "tanh": torch.tanh_,
    "elu": partial(F.elu, inplace=True),
    "silu": partial(F.silu, inplace=True),
    "softplus": lambda x: x.copy_(F.softplus(x)),
}


def check_activation(name: str) -> str:
    """Return ``name`` if it is that of an activation.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}; got {name!r}")
    return name
