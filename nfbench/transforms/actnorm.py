"""Activation normalization: scale and shift that start from the first batch."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .base import Transform


class ActNorm(Transform):
    """``z = exp(s) x + b``, of mean 0 and variance 1 over the first batch in training mode.

    log_det = sum_d s_d. Until that batch it is the identity; afterwards s and b are trained as any
    parameters (Kingma & Dhariwal 2018, section 3.1). That they are set is part of the state, so
    that a model read from a checkpoint goes on with what it has. A dimension that does not vary
    over the batch keeps its scale; a single row sets nothing.
    """

    is_set: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("is_set", torch.tensor(False))
        # The state need be asked only once: to ask a device at each step would wait for it.
        self.settled = False

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Normalize data (B, D)."""
        if self.training and not self.settled:
            self.settled = bool(self.is_set) or self.set_from(x)
        return x * self.log_scale.exp() + self.bias, self.log_scale.sum().expand(x.shape[0])

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Undo the normalization (B, D)."""
        x = (z - self.bias) * torch.exp(-self.log_scale)
        return x, -self.log_scale.sum().expand(z.shape[0])

    @torch.no_grad()
    def set_from(self, x: Tensor) -> bool:
        """Set scale and shift from the batches (B, D) of all processes; whether that was done."""
        rows = x.detach().double()
        sums = torch.stack([torch.ones_like(rows).sum(0), rows.sum(0), rows.square().sum(0)])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        n, total, squares = sums.unbind(0)
        if n[0] < 2:
            return False
        mean = total / n
        var = (squares / n - mean.square()).clamp(min=0)
        rounding = max(torch.finfo(x.dtype).eps ** 2, 1e-15)  # of the data, of these sums
        varies = var > rounding * squares / n
        log_scale = torch.where(varies, -0.5 * var.log(), 0.0)
        self.log_scale.copy_(log_scale)
        self.bias.copy_(-mean * log_scale.exp())
        self.is_set.fill_(True)
        return True
