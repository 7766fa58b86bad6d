"""A linear map by its triangular factors."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Transform
from .elementwise import SOFTPLUS_SHIFT


class LULinear(Transform):
    """``z = L U x + b``: L lower triangular with unit diagonal, U upper with u_d > 0 on its own.

    log_det = sum_d log u_d, u = softplus(a + log(e - 1)), so that it starts as the identity
    (Kingma & Dhariwal 2018, equation 10; Oliva et al. 2018; the permutation before it is
    ``Permute``). Both factors lie in one matrix, a on its diagonal.
    """

    multiplies = True

    def __init__(self, features: int) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.zeros(features, features))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data (B, D) to noise by one product."""
        lower, upper, diagonal = self.triangles()
        z = F.linear(x, lower @ upper, self.bias)
        return z, diagonal.log().sum().expand(x.shape[0])

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map noise (B, D) to data by two triangular solutions."""
        lower, upper, diagonal = self.triangles()
        rows = (z - self.bias).t()
        rows = torch.linalg.solve_triangular(lower, rows, upper=False, unitriangular=True)
        x = torch.linalg.solve_triangular(upper, rows, upper=True).t()
        return x, -diagonal.log().sum().expand(z.shape[0])

    def triangles(self) -> tuple[Tensor, Tensor, Tensor]:
        """L (D, D), U (D, D) and the diagonal of U (D,)."""
        eps = torch.finfo(self.factors.dtype).eps  # so that no saturated factor is singular
        diagonal = F.softplus(self.factors.diagonal() + SOFTPLUS_SHIFT).clamp_min(eps)
        ones = torch.ones_like(diagonal)
        lower = self.factors.tril(-1) + ones.diag()
        return lower, self.factors.triu(1) + diagonal.diag(), diagonal
