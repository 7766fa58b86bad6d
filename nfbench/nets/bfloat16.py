"""Networks that compute in bfloat16 while they are trained."""

from typing import Literal

import torch
from torch import Tensor, nn


class Bfloat16(nn.Module):
    """A conditioner under autocast to bfloat16 in training, in full precision in evaluation.

    What it returns has the precision of its input: the arithmetic of the flow and of its
    log-determinants never is in bfloat16. Weights stay in full precision.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return what the network returns."""
        if not self.training:
            return tuple(self.net(x, context))
        with torch.autocast(x.device.type, torch.bfloat16):
            parameters = self.net(x, context)
        return tuple(each.to(x.dtype) for each in parameters)


def in_dtype(net: nn.Module, dtype: Literal["float32", "bfloat16"]) -> nn.Module:
    """A conditioner that is trained in this dtype."""
    return Bfloat16(net) if dtype == "bfloat16" else net
