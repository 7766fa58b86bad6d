"""The convolutional network of Real NVP (Dinh et al. 2016, and the authors' code)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .channel_norm import ChannelNorm
from .context import check_context
from .weight_norm import WeightNormConv

EPS = 1e-4  # in the variances of batch norm, inside the nets and between couplings


class RealNVPNet(nn.Module):
    """m and s = c tanh(a) for each channel of half an image, from its other half.

    From (B, C, H, W) to two tensors (B, C, H, W): relu([h, -h]) of the normalized input h, a 3x3
    convolution, ``blocks`` residual blocks, and a 1x1 convolution of the sum of what 1x1
    convolutions make of the input of each block and the output of the last; all weights are
    normalized. A context (B, context_features) is added to the first hidden layer through a linear
    map.

    Args:
        mask: 1 where the input is given and 0 where it was masked, (H, W); it is a channel more
            of the input, and h is doubled. None where the input is whole.
        features: channels of the hidden layers.
        batch_norm: whether layers are normalized; else they have a bias, and s = c tanh(a) + d.
        rescaling: c at first.
    """

    mask: Tensor | None

    def __init__(
        self,
        channels: int,
        *,
        features: int,
        blocks: int,
        mask: Tensor | None = None,
        batch_norm: bool = True,
        rescaling: float = 1.0,
        context_features: int = 0,
    ) -> None:
        super().__init__()
        self.context_features = context_features
        pixels = None if mask is None else mask[:, :, None]  # (H, W, 1)
        self.register_buffer("mask", pixels, persistent=False)
        n_in = 2 * channels + (mask is not None)
        self.norm = ChannelNorm(channels, eps=EPS, gain=False) if batch_norm else None
        self.first = WeightNormConv(n_in, features, 3)
        self.embed = nn.Linear(context_features, features) if context_features else None
        self.blocks = nn.ModuleList(Block(features, batch_norm) for _ in range(blocks))
        self.skips = nn.ModuleList(
            WeightNormConv(features, features, 1, magnitude=True) for _ in range(blocks + 1)
        )
        self.activate = NormRelu(features, batch_norm)
        self.last = WeightNormConv(features, 2 * channels, 1, magnitude=True)
        self.rescaling = nn.Parameter(torch.tensor(rescaling))
        self.rescaling_shift = None if batch_norm else nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return m and s, each (B, C, H, W)."""
        check_context(context, self.context_features)
        h = self.first(self.both_signs(x))
        if self.embed is not None:
            h = h + self.embed(context)[..., None, None]
        hidden = [h]
        for block in self.blocks:
            h = block(h)
            hidden.append(h)
        shift, raw = self.last(self.activate(self.skip(hidden))).chunk(2, dim=1)
        log_scale = self.rescaling * torch.tanh(raw)
        if self.rescaling_shift is not None:
            log_scale = log_scale + self.rescaling_shift
        return shift, log_scale

    def skip(self, hidden: list[Tensor]) -> Tensor:
        """The sum of the 1x1 convolutions of images (B, features, H, W), product by product."""
        n, c, h, w = hidden[0].shape
        convs = [conv for conv in self.skips if isinstance(conv, WeightNormConv)]
        total = torch.stack([conv.get_parameter("bias") for conv in convs]).sum(0)
        for image, conv in zip(hidden, convs, strict=True):
            pixels = image.movedim(1, -1).reshape(-1, c)
            total = torch.addmm(total, pixels, conv.normalized[:, :, 0, 0].t())
        return total.view(n, h, w, c).movedim(-1, 1)

    def both_signs(self, x: Tensor) -> Tensor:
        """relu([h, -h, mask]) for the normalized input h, channels last in memory."""
        if self.norm is not None:
            x = self.norm(x)
            if self.mask is not None:
                x = 2 * x
        pixels = x.movedim(1, -1)  # (B, H, W, C)
        parts = [pixels, -pixels]
        if self.mask is not None:
            parts.append(self.mask.expand(len(x), -1, -1, -1))
        return torch.cat(parts, dim=-1).relu_().movedim(-1, 1)


class NormRelu(nn.Module):
    """relu of the input, normalized if ``batch_norm``."""

    def __init__(self, features: int, batch_norm: bool) -> None:
        super().__init__()
        self.norm = ChannelNorm(features, eps=EPS, gain=False) if batch_norm else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalize and cut (B, features, H, W)."""
        return F.relu(x) if self.norm is None else self.norm(x).relu_()


class Block(nn.Module):
    """``h + W_2 * a(W_1 * a(h))``, both convolutions 3x3, a as in ``NormRelu``."""

    def __init__(self, features: int, batch_norm: bool) -> None:
        super().__init__()
        self.activate_first = NormRelu(features, batch_norm)
        self.first = WeightNormConv(features, features, 3, bias=not batch_norm)
        self.activate_second = NormRelu(features, batch_norm)
        self.second = WeightNormConv(features, features, 3, magnitude=True)

    def forward(self, x: Tensor) -> Tensor:
        """Add to (B, features, H, W)."""
        return x + self.second(self.activate_second(self.first(self.activate_first(x))))
