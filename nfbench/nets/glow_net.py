"""The convolutional network of Glow (Kingma & Dhariwal 2018, and the authors' code)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .context import check_context
from .first_batch import FirstBatch

WEIGHT_STD = 0.05
RATE = 3.0  # how much faster than other parameters the log-scales of channels move


class GlowNet(nn.Module):
    """3x3, 1x1 and 3x3 convolutions with ReLU between them: ``n_parameters`` images from one.

    From (B, in_channels, H, W) to n_parameters tensors (B, out_channels, H, W), all zero at first.
    A context (B, context_features) is added to the first hidden layer through a linear map.

    Args:
        normalize: whether the hidden layers are normalized as by ``FirstBatch``, without which
            they have a bias.
        edges: whether the 3x3 convolutions see an additional channel that is 1 beyond the edges.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        n_parameters: int = 1,
        hidden: int = 512,
        normalize: bool = True,
        edges: bool = True,
        context_features: int = 0,
    ) -> None:
        super().__init__()
        self.n_parameters, self.context_features = n_parameters, context_features
        self.first = HiddenConv(in_channels, hidden, 3, normalize=normalize, edges=edges)
        self.second = HiddenConv(hidden, hidden, 1, normalize=normalize)
        self.last = ZeroConv(hidden, n_parameters * out_channels, edges=edges)
        self.embed = nn.Linear(context_features, hidden) if context_features else None

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return ``n_parameters`` tensors (B, out_channels, H, W)."""
        check_context(context, self.context_features)
        h = self.first(x)
        if self.embed is not None:
            h = h + self.embed(context)[..., None, None]
        h = self.second(F.relu(h, inplace=True))
        return self.last(F.relu(h, inplace=True)).chunk(self.n_parameters, dim=1)


class HiddenConv(nn.Module):
    """A convolution whose channels are scaled and shifted as by ``FirstBatch``, or have a bias."""

    def __init__(
        self, n_in: int, n_out: int, kernel: int, *, normalize: bool = True, edges: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(WEIGHT_STD * torch.randn(n_out, n_in, kernel, kernel))
        self.edge = nn.Parameter(WEIGHT_STD * torch.randn(n_out, 1, 3, 3)) if edges else None
        self.norm = FirstBatch(n_out, rate=RATE) if normalize else None
        self.bias = None if normalize else nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, n_in, H, W); the normalization is part of the weights."""
        if self.norm is None:
            return convolve(x, self.weight, self.bias, self.edge)
        if self.norm.is_waiting:
            with torch.no_grad():
                self.norm.set_from(convolve(x, self.weight, None, self.edge))
        gain = self.norm.log_gain.exp().view(-1, 1, 1, 1)
        edge = None if self.edge is None else self.edge * gain
        return convolve(x, self.weight * gain, self.norm.bias, edge)


class ZeroConv(nn.Module):
    """``(W * x + b) exp(3 l)`` with W, b and the scales l of the channels zero at first."""

    def __init__(self, n_in: int, n_out: int, *, edges: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_out, n_in, 3, 3))
        self.edge = nn.Parameter(torch.zeros(n_out, 1, 3, 3)) if edges else None
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.log_scale = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, n_in, H, W); the scale is part of the weights."""
        gain = torch.exp(RATE * self.log_scale)
        edge = None if self.edge is None else self.edge * gain.view(-1, 1, 1, 1)
        return convolve(x, self.weight * gain.view(-1, 1, 1, 1), self.bias * gain, edge)


class Prior(nn.Module):
    """m and s of the half of the channels that leaves a level, given the other half."""

    def __init__(self, channels: int, *, edges: bool = True) -> None:
        super().__init__()
        self.conv = ZeroConv(channels, 2 * channels, edges=edges)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Two tensors shaped as ``x`` (B, C, H, W)."""
        return self.conv(x).chunk(2, dim=1)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, edge: Tensor | None) -> Tensor:
    """A convolution of the same size; ``edge`` are the weights of what is 1 beyond the edges."""
    padding = weight.shape[-1] // 2
    if edge is None:
        return F.conv2d(x, weight, bias, padding=padding)
    if weight.shape[0] < weight.shape[1]:
        return F.conv2d(x, weight, bias, padding=padding) + edge_map(edge, *x.shape[-2:])
    # 1 beyond the edges is 1 everywhere less 1 inside. The former is part of the bias, the latter
    # one more channel: cheaper than to add a map to many channels.
    inside = x.new_ones(1).expand(x.shape[0], 1, *x.shape[2:])
    everywhere = edge.sum((1, 2, 3))
    bias = everywhere if bias is None else bias + everywhere
    x, weight = torch.cat([x, inside], dim=1), torch.cat([weight, -edge], dim=1)
    return F.conv2d(x, weight, bias, padding=padding)


def edge_map(edge: Tensor, height: int, width: int) -> Tensor:
    """What a channel that is 1 beyond the edges and 0 inside adds, (1, n_out, H, W)."""
    beyond = edge.new_ones(1, 1, height + 2, width + 2)
    beyond[:, :, 1:-1, 1:-1] = 0
    return F.conv2d(beyond, edge)
