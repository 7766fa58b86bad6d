"""A learned Gaussian for the noise of the last level."""

import torch
from torch import Tensor, nn

from nfbench.nets.context import check_context
from nfbench.nets.glow_net import RATE, edge_map

from .base import Transform
from .elementwise import Affine


class TopPrior(Transform):
    """``z = (x - m) exp(s)``, m and s the same for all images, all zero at first; log_det = sum s.

    They are a number for each channel, and another one near the edges; with a context
    (B, context_features) a linear map of that is added (authors' code of Glow, "learntop" and
    "ycond").
    """

    def __init__(self, channels: int, *, edges: bool = True, context_features: int = 0) -> None:
        super().__init__()
        self.context_features = context_features
        self.bias = nn.Parameter(torch.zeros(2 * channels))
        self.log_scale = nn.Parameter(torch.zeros(2 * channels))
        self.edge = nn.Parameter(torch.zeros(2 * channels, 1, 3, 3)) if edges else None
        self.embed = nn.Linear(context_features, 2 * channels) if context_features else None
        if self.embed is not None:
            nn.init.zeros_(self.embed.weight)
            nn.init.zeros_(self.embed.bias)
        self.normal = Affine()

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Normalize images (B, C, H, W)."""
        z, log_det = self.normal(x, self.parameters_of(x, context))
        return z, log_det.flatten(1).sum(1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Undo the normalization."""
        x, log_det = self.normal.inverse(z, self.parameters_of(z, context))
        return x, log_det.flatten(1).sum(1)

    def parameters_of(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, ...]:
        """m and s in the shape of ``x``."""
        check_context(context, self.context_features)
        h = self.bias.view(1, -1, 1, 1)
        if self.edge is not None:
            h = h + edge_map(self.edge, x.shape[-2], x.shape[-1])
        h = h * torch.exp(RATE * self.log_scale).view(-1, 1, 1)
        if self.embed is not None:
            h = h + self.embed(context)[..., None, None]
        return h.expand(x.shape[0], -1, *x.shape[2:]).chunk(2, dim=1)
