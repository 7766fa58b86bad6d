"""The network of a flow that makes noise for images, given the image."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn


class DequantizerNet(nn.Module):
    """``n_parameters`` numbers for each dimension of noise, from noise and the image it is for.

    Three convolutions of 3 x 3 with ELU between; linear layers where the event is a vector. Their
    last starts at zero, so that a coupling starts as the identity.

    Raises:
        ValueError: if events are neither vectors (D,) nor images (C, H, W).
    """

    def __init__(
        self, event_shape: Sequence[int], *, hidden: int = 32, n_parameters: int = 2
    ) -> None:
        super().__init__()
        if len(event_shape) not in (1, 3):
            raise ValueError(
                "preprocess.dequantize: expected data (D,) or (C, H, W) for 'variational', got "
                f"{tuple(event_shape)}"
            )
        layer = (
            nn.Linear if len(event_shape) == 1 else partial(nn.Conv2d, kernel_size=3, padding=1)
        )
        channels = event_shape[0]
        self.n_parameters = n_parameters
        last = layer(hidden, n_parameters * channels)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.layers = nn.Sequential(
            layer(2 * channels, hidden), nn.ELU(), layer(hidden, hidden), nn.ELU(), last
        )

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Noise and images, both (B, *event), to parameters (n_parameters, B, *event)."""
        h = self.layers(torch.cat([x, context], dim=1))  # (B, P * C, ...)
        return h.unflatten(1, (self.n_parameters, -1)).movedim(1, 0)
