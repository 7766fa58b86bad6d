"""Batch normalization of what a coupling of images has mapped."""

import torch
from torch import Tensor

from nfbench.nets.running import RunningStatistics

from .base import Transform


class RunningNorm(RunningStatistics, Transform):
    """``z = (x - mean) / sqrt(var + eps)`` where p is 1, and ``z = x`` where it is 0.

    log_det = -1/2 sum over p = 1 of log(var + eps). Mean and variance (ddof 0) of each channel are
    those of p x over all pixels, with the zeros where p = 0: on a checkerboard, where these are
    half of the pixels, z has neither mean 0 nor variance 1 (authors' code of Dinh et al. 2016).
    Training takes them from the minibatch, so that a row's density depends on the others; running
    ones follow, ``running += rate (batch - running)``, for evaluation and ``inverse``.

    Args:
        channels: C.
        mapped: p, of a shape that fits (C, H, W).
    """

    inverts_in_training = False
    mapped: Tensor

    def __init__(
        self, channels: int, mapped: Tensor, *, eps: float = 1e-4, rate: float = 0.1
    ) -> None:
        super().__init__(channels, 1, 1)
        self.eps, self.rate = eps, rate
        self.register_buffer("mapped", mapped.to(torch.get_default_dtype()), persistent=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Normalize images (B, C, H, W)."""
        mean, var = self.mean, self.var
        if self.training:
            var, mean = torch.var_mean(x * self.mapped, (0, 2, 3), correction=0, keepdim=True)
            self.follow(mean[0], var[0])
        log_gain = self.log_gain(var)
        gain = log_gain.exp()
        return x * gain - mean * self.mapped * gain, log_det(log_gain, x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Undo the normalization with the running statistics."""
        log_gain = -self.log_gain(self.var)
        return z * log_gain.exp() + self.mean * self.mapped, log_det(log_gain, z)

    def log_gain(self, var: Tensor) -> Tensor:
        """The log of what x is multiplied by, 0 where p = 0; of a shape that fits (C, H, W)."""
        return -0.5 * self.mapped * torch.log(var + self.eps)

    @torch.no_grad()
    def follow(self, mean: Tensor, var: Tensor) -> None:
        """Move the running statistics towards a minibatch's."""
        self.mean.lerp_(mean, self.rate)
        self.var.lerp_(var, self.rate)


def log_det(log_gain: Tensor, x: Tensor) -> Tensor:
    """The sum of the log-gains of all elements of a row of ``x``, the same for every row (B,)."""
    n_each = x.shape[1:].numel() // log_gain.numel()
    return (n_each * log_gain.sum()).expand(len(x))
