"""How a conditioner's weights start."""

import math

import torch
from torch import Tensor

# The last layer's weights are shrunk by this, so that a flow starts close to the identity.
NEAR_ZERO = 1e-2
INITS = ("paper", "near_zero")


@torch.no_grad()
def initialize(weights: list[Tensor], biases: list[Tensor], init: str) -> None:
    """Fill weights with N(0, 1/(fan_in + 1)) and biases with 0 (authors' code of Papamakarios et
    al. 2017).

    ``near_zero`` also multiplies the last layer's weights by 1e-2.

    Raises:
        ValueError: if ``init`` is neither ``paper`` nor ``near_zero``.
    """
    if init not in INITS:
        raise ValueError(f"init: expected one of {', '.join(INITS)}; got {init!r}")
    for weight, bias in zip(weights, biases, strict=True):
        weight.normal_(0.0, 1.0 / math.sqrt(weight.shape[1] + 1))
        bias.zero_()
    if init == "near_zero":
        weights[-1].mul_(NEAR_ZERO)
