"""How a conditioner's weights start."""

import math

import torch
from torch import Tensor

# The last layer is shrunk by this, so that a flow starts close to the identity.
NEAR_ZERO = 1e-2
INITS = ("paper", "near_zero")
BLOCK_BOUND = 1e-3  # of what the last layer of a residual block starts with


@torch.no_grad()
def initialize(
    weights: list[Tensor], biases: list[Tensor], init: str, *, residual: bool = False
) -> None:
    """Fill weights and biases; fan_in is the width of what a layer sees.

    ``paper``: weights N(0, 1/(fan_in + 1)), biases 0 (authors' code of Papamakarios et al. 2017).
    ``near_zero``: both U(-r, r) with r = fan_in^-1/2, as torch's linear layers start, and the
    last layer multiplied by 1e-2. Residual nets take U(-r, r) in either case, with r = 1e-3 in the
    second layer of each block (authors' code of Durkan et al. 2019).

    Raises:
        ValueError: if ``init`` is neither ``paper`` nor ``near_zero``.
    """
    if init not in INITS:
        raise ValueError(f"init: expected one of {', '.join(INITS)}; got {init!r}")
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if residual or init == "near_zero":
            ends_block = residual and layer % 2 == 0 and 0 < layer < len(weights) - 1
            bound = BLOCK_BOUND if ends_block else weight.shape[1] ** -0.5
            weight.uniform_(-bound, bound)
            bias.uniform_(-bound, bound)
        else:
            weight.normal_(0.0, 1.0 / math.sqrt(weight.shape[1] + 1))
            bias.zero_()
    if init == "near_zero":
        weights[-1].mul_(NEAR_ZERO)
        biases[-1].mul_(NEAR_ZERO)
