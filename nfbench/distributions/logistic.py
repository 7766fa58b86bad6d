"""The standard logistic distribution."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Parameterless, scaled


class Logistic(Parameterless):
    """log p(z) = -sum_d [log(1 + exp z_d) + log(1 + exp -z_d)] (Dinh et al. 2014, section 3.4)."""

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density of each row in nats, shape (B,)."""
        self.check(z)
        return -(F.softplus(z) + F.softplus(-z)).flatten(1).sum(1)

    def sample(self, n: int, context: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
        """Draw n rows (n, *event) of the logistic distribution of scale T."""
        like = self.anchor
        uniform = torch.rand(n, *self.event_shape, dtype=like.dtype, device=like.device)
        # Neither end of the interval: the logit would be infinite.
        noise = torch.logit(uniform, eps=torch.finfo(like.dtype).eps / 4)
        return scaled(noise, temperature)

    def cdf(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """``1 / (1 + exp -z)`` of each dimension, (B, *event)."""
        return z.sigmoid()
