"""Layers whose weights are normalized, and whose outputs are so over the first batch."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .first_batch import FirstBatch
from .weight_norm import weight_norm

SPREAD = 0.05  # of v at the start
STRIDE = 2  # of what halves or doubles a side


class Normalized(nn.Module, ABC):
    """``exp(s) (v / |v|) x + b``, the norm over each output feature's weights v (Salimans & Kingma
    2016, equation 2).

    v starts as N(0, 0.05^2); s and b start so that each feature has mean 0 and standard deviation
    ``std`` over the first batch in training (section 3). A feature that does not vary over it
    keeps s = log std, and b = -std times its value.

    Args:
        shape: of v. axis: that of the output features.
        mask: 0 where a weight is forbidden, of the shape of v; no feature loses all.
    """

    mask: Tensor | None

    def __init__(
        self, shape: Sequence[int], *, axis: int = 0, std: float = 1.0, mask: Tensor | None = None
    ) -> None:
        super().__init__()
        self.axis, self.std = axis, std
        self.weight = nn.Parameter(SPREAD * torch.randn(*shape))
        self.norm = FirstBatch(shape[axis])
        self.register_buffer("mask", mask, persistent=False)

    @abstractmethod
    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The linear map of these weights, features in dimension 1."""

    def normalized(self, gain: Tensor) -> Tensor:
        """``g v / |v|``, of the shape of v."""
        weight = self.weight if self.mask is None else self.weight * self.mask
        return weight_norm(weight, gain, self.axis)

    @torch.no_grad()
    def start_from(self, x: Tensor) -> None:
        """Set s and b from the first batch."""
        ones = torch.ones_like(self.norm.bias)
        self.norm.set_from(self.product(x, self.normalized(ones), None))
        if self.norm.settled:
            self.norm.log_scale.add_(math.log(self.std))
            self.norm.bias.mul_(self.std)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, n_in, *space) to (B, n_out, *space')."""
        if self.norm.is_waiting:
            self.start_from(x)
        return self.product(x, self.normalized(self.norm.log_gain.exp()), self.norm.bias)


class NormalizedLinear(Normalized):
    """A linear layer, (B, n_in) -> (B, n_out)."""

    def __init__(self, n_in: int, n_out: int, *, std: float = 1.0) -> None:
        super().__init__([n_out, n_in], std=std)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``W x + b``."""
        return F.linear(x, weight, bias)


class NormalizedConv(Normalized):
    """A convolution with half a kernel of zeros around, (B, n_in, H, W) -> (B, n_out, H', W').

    With ``halve`` it has stride 2: H' = ceil(H / 2), W' = ceil(W / 2); else they are H and W.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel: int = 3,
        *,
        halve: bool = False,
        std: float = 1.0,
        mask: Tensor | None = None,
    ) -> None:
        super().__init__([n_out, n_in, kernel, kernel], std=std, mask=mask)
        self.stride = STRIDE if halve else 1

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``W * x + b``."""
        return F.conv2d(x, weight, bias, self.stride, weight.shape[-1] // 2)


class NormalizedDeconv(Normalized):
    """The transposed convolution of stride 2 to a size of which x is the half, rounded up.

    (B, n_in, ceil(H / 2), ceil(W / 2)) -> (B, n_out, H, W).
    """

    def __init__(
        self, n_in: int, n_out: int, kernel: int = 3, *, size: Sequence[int], std: float = 1.0
    ) -> None:
        super().__init__([n_in, n_out, kernel, kernel], axis=1, std=std)
        self.size = tuple(size)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``W^T * x + b``."""
        more = [n - STRIDE * small + 1 for n, small in zip(self.size, x.shape[2:], strict=True)]
        return F.conv_transpose2d(x, weight, bias, STRIDE, weight.shape[-1] // 2, more)


def halved(size: Sequence[int]) -> tuple[int, ...]:
    """Height and width behind a stride of 2."""
    return tuple(-(-n // STRIDE) for n in size)
