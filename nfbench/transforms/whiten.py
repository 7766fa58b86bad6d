"""Whitening by the data's own mean and covariance: a full-covariance Gaussian in closed form."""

import torch
from torch import Tensor, nn

from .base import Transform


class Whiten(Transform):
    """``z = L^-1 (x - mean)``, ``L L^T`` the training set's covariance; log_det = -sum log L_dd.

    With a standard normal base this is the maximum-likelihood Gaussian; ``calibrate`` fits it.

    Raises:
        ValueError: from ``calibrate``, if the covariance is not positive definite.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(features), requires_grad=False)
        self.cholesky = nn.Parameter(torch.eye(features), requires_grad=False)

    @property
    def needs_calibration(self) -> bool:
        """True: all there is to it comes from data."""
        return True

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Whiten data (B, D)."""
        z = torch.linalg.solve_triangular(self.cholesky, (x - self.mean).t(), upper=False).t()
        return z, -self.log_det().expand(x.shape[0])

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Color noise (B, D)."""
        return z @ self.cholesky.t() + self.mean, self.log_det().expand(z.shape[0])

    def log_det(self) -> Tensor:
        """log|det dx/dz|, the same scalar for every row."""
        return self.cholesky.diagonal().log().sum()

    @torch.no_grad()
    def calibrate(
        self, x: Tensor, context: Tensor | None = None, batch_size: int = 65536
    ) -> Tensor:
        """Fit mean and covariance (ddof 0) to the training set ``x`` (N, D) in float64."""
        mean = x.double().mean(0)
        centered = x.double() - mean
        cholesky, failed = torch.linalg.cholesky_ex(centered.t() @ centered / len(x))
        if failed:
            raise ValueError(
                f"covariance of the training set ({len(x)} rows, {x.shape[1]} dimensions): "
                "expected positive definite, got a singular matrix; "
                "drop constant or duplicate dimensions"
            )
        self.mean.copy_(mean)
        self.cholesky.copy_(cholesky)
        return super().calibrate(x, context, batch_size)
