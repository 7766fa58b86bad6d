"""Batch normalization as a flow layer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import CALIBRATED, Transform


class BatchNorm(Transform):
    """``z = exp(g) (x - mean) / sqrt(var + eps) + b``; log_det = sum_d (g - log(var + eps) / 2).

    Training takes mean and variance (ddof 0) from the minibatch; evaluation and sampling take
    those of the whole training set, which ``calibrate`` measures (Papamakarios et al. 2017,
    appendix B and authors' code). A density in training mode is not a density of single points.
    """

    inverts_in_training = False
    mean: Tensor
    var: Tensor

    def __init__(self, features: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.log_gain = nn.Parameter(torch.zeros(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("var", torch.ones(features))

    @property
    def needs_calibration(self) -> bool:
        """True: the statistics are the training set's."""
        return True

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Normalize data (B, D)."""
        gain = self.log_gain.exp()
        if self.training:
            if len(x) == 1:
                raise ValueError(
                    "batch norm: expected a training batch of at least 2 rows, got 1; a larger "
                    "data.batch_size, or flow.batch_norm=false, would do"
                )
            var = x.var(0, correction=0)
            z = F.batch_norm(x, None, None, gain, self.bias, training=True, eps=self.eps)
        else:
            var = self.var
            z = F.batch_norm(x, self.mean, self.var, gain, self.bias, training=False, eps=self.eps)
        return z, self.log_det(var).expand(x.shape[0])

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Undo the normalization (B, D) with the training set's statistics."""
        std = (self.var + self.eps).sqrt()
        x = (z - self.bias) * torch.exp(-self.log_gain) * std + self.mean
        return x, -self.log_det(self.var).expand(z.shape[0])

    def log_det(self, var: Tensor) -> Tensor:
        """log|det dz/dx|, the same scalar for every row."""
        return (self.log_gain - 0.5 * torch.log(var + self.eps)).sum()

    @torch.no_grad()
    def calibrate(
        self, x: Tensor, context: Tensor | None = None, batch_size: int = CALIBRATED
    ) -> Tensor:
        """Set the statistics to those of the training set ``x`` (N, D), summed in float64."""
        var, mean = torch.var_mean(x.double(), 0, correction=0)
        self.mean.copy_(mean)
        self.var.copy_(var)
        return F.batch_norm(
            x, self.mean, self.var, self.log_gain.exp(), self.bias, training=False, eps=self.eps
        )
