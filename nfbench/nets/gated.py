"""A gated residual convolutional network, after that of Flow++ (Ho et al. 2019)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .context import check_context


class GatedNet(nn.Module):
    """m and s = f tanh(a / f) for each channel, both zero at first; f is trained, and 1 at first.

    From (B, in_channels, H, W) to two tensors (B, out_channels, H, W): a 3x3 convolution, gated
    blocks, each with its output normalized over the channels of a pixel, ELU of both signs, and a
    3x3 convolution (Lippe 2021). A context (B, context_features) is added to the first hidden
    layer through a linear map.

    Args:
        hidden: channels of the hidden layers.
        blocks: number of gated blocks.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        hidden: int = 32,
        blocks: int = 3,
        context_features: int = 0,
    ) -> None:
        super().__init__()
        self.context_features = context_features
        self.first = nn.Conv2d(in_channels, hidden, 3, padding=1)
        self.embed = nn.Linear(context_features, hidden) if context_features else None
        self.blocks = nn.Sequential(*(GatedBlock(hidden) for _ in range(blocks)))
        self.last = nn.Conv2d(2 * hidden, 2 * out_channels, 3, padding=1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)
        self.log_bound = nn.Parameter(torch.zeros(out_channels))  # log f

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return m and s, each (B, out_channels, H, W)."""
        check_context(context, self.context_features)
        h = self.first(x)
        if self.embed is not None:
            h = h + self.embed(context)[..., None, None]
        shift, raw = self.last(both_signs(self.blocks(h))).chunk(2, dim=1)
        bound = self.log_bound.exp().view(-1, 1, 1)
        return shift, bound * torch.tanh(raw / bound)


class GatedBlock(nn.Module):
    """``n(h + v sigmoid(g))``, (v, g) = W_2 * elu([c, -c]), c = W_1 * h.

    W_1 is 3x3, W_2 1x1; n normalizes the channels of each pixel, with a trained gain and bias.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.second = nn.Conv2d(2 * hidden, 2 * hidden, 1)
        self.norm = nn.LayerNorm(hidden)

    def forward(self, h: Tensor) -> Tensor:
        """Map (B, hidden, H, W)."""
        value, gate = self.second(both_signs(self.first(h))).chunk(2, dim=1)
        h = h + value * torch.sigmoid(gate)
        normalized: Tensor = self.norm(h.movedim(1, -1)).movedim(-1, 1)
        return normalized


class GatedDequantizerNet(nn.Module):
    """``GatedNet`` for the noise of images (C, H, W), which are given to it beside the noise."""

    def __init__(self, channels: int, *, hidden: int = 16) -> None:
        super().__init__()
        self.net = GatedNet(2 * channels, channels, hidden=hidden)

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """m and s, each (B, C, H, W), from noise and images on [-1/2, 1/2], both (B, C, H, W)."""
        shift, log_scale = self.net(torch.cat([x, 2 * context], dim=1))
        return shift, log_scale


def both_signs(x: Tensor) -> Tensor:
    """elu([x, -x]), twice the channels of (B, C, H, W)."""
    return F.elu(torch.cat([x, -x], dim=1))
