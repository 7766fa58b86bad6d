"""What the contract of every transform is tested on."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from oracles import randomize
from torch import Tensor, nn

from nfbench.transforms.base import Transform

N_CONTEXT = 2


@dataclass(frozen=True)
class Case:
    """How to build a transform, and what its data look like."""

    label: str
    build: Callable[[], Transform]
    event_shape: tuple[int, ...]
    conditional: bool = False
    in_unit_interval: bool = False
    disturbance: float | None = None  # added to the parameters, which are redrawn otherwise

    def data(self, n: int = 3) -> Tensor:
        """Rows on the data side."""
        rows = torch.rand if self.in_unit_interval else torch.randn
        return rows(n, *self.event_shape)

    def context(self, n: int = 3) -> Tensor | None:
        return torch.randn(n, N_CONTEXT) if self.conditional else None

    def transform(self) -> Transform:
        """Random parameters, statistics of random correlated data, evaluation mode."""
        transform = self.build().eval()
        if self.disturbance is None:
            randomize(transform)
        else:
            disturb(transform, self.disturbance)
        if transform.needs_calibration:
            transform.calibrate(self.data(64).cumsum(1) + 1, self.context(64))
        return transform


@torch.no_grad()
def disturb(module: nn.Module, spread: float) -> None:
    """Add noise to every parameter: a rotation stays close to one, and so does its inverse."""
    for parameter in module.parameters():
        parameter.add_(spread * torch.randn_like(parameter))
