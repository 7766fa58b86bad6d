"""Batch normalization of channels inside a network."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .running import RunningStatistics

MOMENTUM = 0.1


class ChannelNorm(RunningStatistics):
    """``g (x - mean) / sqrt(var + eps) + b`` for each channel of images (B, C, H, W).

    In training mean and variance are the minibatch's, and running ones follow at a rate of 0.1;
    these are used in evaluation. Without ``gain`` g is 1.
    """

    def __init__(self, channels: int, *, eps: float, gain: bool = True) -> None:
        super().__init__(channels)
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(channels)) if gain else None
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (B, C, H, W)."""
        # Not None: on a GPU torch then has no gradient for the bias.
        gain = torch.ones_like(self.bias) if self.gain is None else self.gain
        return F.batch_norm(
            x, self.mean, self.var, gain, self.bias, self.training, MOMENTUM, self.eps
        )
