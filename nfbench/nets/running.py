"""Statistics of training batches that a module keeps for evaluation."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn


class RunningStatistics(nn.Module):
    """A module whose mean and variance follow those of the training batches.

    Args:
        shape: of the mean, which starts at 0, and of the variance, which starts at 1.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("var", torch.ones(shape))


def running_statistics(model: nn.Module) -> Iterator[Tensor]:
    """Every running mean and variance of a model."""
    for part in model.modules():
        if isinstance(part, RunningStatistics):
            yield from (part.mean, part.var)
