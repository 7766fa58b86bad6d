"""A linear map of the channels, the same at every pixel."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .actnorm import ActNorm
from .base import Transform


class Conv1x1(Transform):
    """``z_ij = W x_ij`` at every pixel; log_det = H W log|det W| (Kingma & Dhariwal 2018, eq. 9).

    W starts as a random rotation. ``factors="full"`` trains W itself, its determinant taken in
    float64; ``"lu"`` trains W = P L (U + diag(sign exp s)), P and the signs kept as they start
    (equations 10 and 11), so that log|det W| = sum_c s_c.

    Raises:
        ValueError: if ``factors`` is neither.
    """

    multiplies = True
    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int, *, factors: Literal["full", "lu"] = "full") -> None:
        super().__init__()
        if factors not in ("full", "lu"):
            raise ValueError(f"factors: expected full or lu, got {factors!r}")
        self.factors = factors
        # Row after row in memory, as it is when read from a file: products round by the layout.
        rotation = torch.linalg.qr(torch.randn(channels, channels))[0].contiguous()
        if factors == "full":
            self.weight = nn.Parameter(rotation)
            return
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation)
        self.register_buffer("sign", diagonal.sign())
        self.lower_upper = nn.Parameter((lower.tril(-1) + upper.triu(1)).contiguous())
        self.log_scale = nn.Parameter(diagonal.abs().log())

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mix the channels of images (B, C, H, W)."""
        return multiply(self.matrix(), x), self.log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Undo the mixing; W is inverted in float64."""
        inverse = torch.linalg.inv(self.matrix().double()).to(z.dtype)
        return multiply(inverse, z), -self.log_det(z)

    def matrix(self) -> Tensor:
        """W (C, C)."""
        if self.factors == "full":
            return self.weight
        lower = self.lower_upper.tril(-1) + torch.ones_like(self.sign).diag()
        upper = self.lower_upper.triu(1) + (self.sign * self.log_scale.exp()).diag()
        return self.permutation @ lower @ upper

    def log_det(self, x: Tensor) -> Tensor:
        """log|det dz/dx| (B,), the same number for every row."""
        if self.factors == "full":
            log_det = torch.linalg.slogdet(self.weight.double()).logabsdet.to(x.dtype)
        else:
            log_det = self.log_scale.sum()
        return (x.shape[2:].numel() * log_det).expand(x.shape[0])


class NormalizedConv1x1(Transform):
    """Activation norm, then a 1x1 convolution, as one: ``z_ij = W (exp(s) x_ij + b)``.

    log_det = H W (sum_c s_c + log|det W|). The norm is set by the first batch, as ``ActNorm``.
    """

    multiplies = True

    def __init__(
        self, channels: int, *, factors: Literal["full", "lu"] = "full", rate: float = 1.0
    ) -> None:
        super().__init__()
        self.norm = ActNorm(channels, rate=rate)
        self.conv = Conv1x1(channels, factors=factors)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Normalize and mix the channels of images (B, C, H, W)."""
        if self.norm.is_waiting:
            self.norm.set_from(x)
        matrix = self.conv.matrix()
        z = multiply(matrix * self.norm.log_gain.exp(), x, matrix @ self.norm.bias)
        return z, self.log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Undo both; W is inverted in float64."""
        inverse = torch.linalg.inv(self.conv.matrix().double()).to(z.dtype)
        gain = torch.exp(-self.norm.log_gain)
        return multiply(gain[:, None] * inverse, z, -gain * self.norm.bias), -self.log_det(z)

    def log_det(self, x: Tensor) -> Tensor:
        """log|det dz/dx| (B,), the same number for every row."""
        return self.norm.log_det(x) + self.conv.log_det(x)


def multiply(matrix: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """The matrix times the channels of (B, C, H, W): one product where they are last in memory."""
    return F.linear(x.movedim(1, -1), matrix, bias).movedim(-1, 1)
