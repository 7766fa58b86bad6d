"""Whitening by the data's own mean and covariance: a full-covariance Gaussian in closed form."""

import torch
from torch import Tensor, nn

from nfbench.nets.context import check_context

from .base import CALIBRATED, Transform, check_width


class Whiten(Transform):
    """``z = L^-1 (x - mean)``, ``L L^T`` the training set's covariance; log_det = -sum log L_dd.

    With a standard normal base this is the maximum-likelihood Gaussian; ``calibrate`` fits it.
    With ``context_features`` there is one for each of as many classes: the context is the class's
    one-hot code, of which the largest entry counts.

    Raises:
        ValueError: if the context is not what ``context_features`` says; from ``calibrate``, if a
            class has no rows or a covariance is not positive definite.
    """

    def __init__(self, features: int, *, context_features: int = 0) -> None:
        super().__init__()
        self.context_features, n = context_features, max(1, context_features)
        self.mean = nn.Parameter(torch.zeros(n, 1, features), requires_grad=False)
        eye = torch.eye(features).repeat(n, 1, 1)
        self.cholesky = nn.Parameter(eye, requires_grad=False)

    @property
    def needs_calibration(self) -> bool:
        """True: all there is to it comes from data."""
        return True

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Whiten data (B, D)."""
        classes = self.classes(x, context)
        z = torch.linalg.solve_triangular(self.cholesky, (x - self.mean).mT, upper=False).mT
        return pick(z, classes), -self.log_det()[classes]

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Color noise (B, D)."""
        classes = self.classes(z, context)
        return pick(z @ self.cholesky.mT + self.mean, classes), self.log_det()[classes]

    def classes(self, x: Tensor, context: Tensor | None) -> Tensor:
        """The class of each row (B,); 0 without a context."""
        check_width(x, self.mean.shape[-1])
        check_context(context, self.context_features)
        if context is None:
            return torch.zeros(len(x), dtype=torch.long, device=x.device)
        return context.argmax(1)

    def log_det(self) -> Tensor:
        """log|det dx/dz| of each class (n,)."""
        return self.cholesky.diagonal(dim1=1, dim2=2).log().sum(1)

    @torch.no_grad()
    def calibrate(
        self, x: Tensor, context: Tensor | None = None, batch_size: int = CALIBRATED
    ) -> Tensor:
        """Fit mean and covariance (ddof 0) of each class to ``x`` (N, D) in float64."""
        classes = self.classes(x, context)
        for label in range(len(self.mean)):
            rows = x[classes == label].double()
            if not len(rows):
                raise ValueError(
                    f"class {label}: expected training rows to fit its Gaussian to, got none of "
                    f"{len(x)}"
                )
            mean = rows.mean(0)
            centered = rows - mean
            cholesky, failed = torch.linalg.cholesky_ex(centered.t() @ centered / len(rows))
            if failed:
                which = f" of class {label}" if self.context_features else ""
                raise ValueError(
                    f"covariance of the training set{which} ({len(rows)} rows, {x.shape[1]} "
                    "dimensions): expected positive definite, got a singular matrix; "
                    "drop constant or duplicate dimensions"
                )
            self.mean[label] = mean
            self.cholesky[label] = cholesky
        return super().calibrate(x, context, batch_size)


def pick(rows: Tensor, classes: Tensor) -> Tensor:
    """Of the rows of every class (n, B, D) those of each row's own, (B, D)."""
    return rows[classes, torch.arange(len(classes), device=rows.device)]
