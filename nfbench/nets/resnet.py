"""A residual convolutional network (He et al. 2016, as used by Durkan et al. 2019)."""

import torch.nn.functional as F
from torch import Tensor, nn

from .channel_norm import ChannelNorm
from .context import check_context
from .init import BLOCK_BOUND

EPS = 1e-3  # in the variances of batch norm


class ResNet(nn.Module):
    """1x1 convolution, ``blocks`` residual blocks, 1x1 convolution: parameters for each channel.

    From (B, in_channels, H, W) to (n_parameters, B, out_channels, H, W). A context
    (B, context_features) is added to the first hidden layer through a linear map.

    Args:
        hidden: channels of the hidden layers.
        batch_norm: whether the input of each convolution of a block is normalized.
        dropout: probability of what the second convolution of a block sees.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        n_parameters: int = 1,
        hidden: int = 96,
        blocks: int = 3,
        batch_norm: bool = True,
        dropout: float = 0.0,
        context_features: int = 0,
    ) -> None:
        super().__init__()
        self.shape, self.context_features = (n_parameters, out_channels), context_features
        self.first = nn.Conv2d(in_channels, hidden, 1)
        self.embed = nn.Linear(context_features, hidden, bias=False) if context_features else None
        self.blocks = nn.ModuleList(Block(hidden, batch_norm, dropout) for _ in range(blocks))
        self.last = nn.Conv2d(hidden, n_parameters * out_channels, 1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the parameters (n_parameters, B, out_channels, H, W)."""
        check_context(context, self.context_features)
        h = self.first(x)
        if self.embed is not None:
            h = h + self.embed(context)[..., None, None]
        for block in self.blocks:
            h = block(h)
        return self.last(h).unflatten(1, self.shape).movedim(1, 0)


class Block(nn.Module):
    """``h + W_2 * d(relu(n(W_1 * relu(n(h)))))``: 3x3 convolutions, dropout d, batch norms n.

    W_2 and its bias start as U(-1e-3, 1e-3).
    """

    def __init__(self, hidden: int, batch_norm: bool, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.norms = nn.ModuleList(
            ChannelNorm(hidden, eps=EPS) if batch_norm else nn.Identity() for _ in range(2)
        )
        self.first = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.second = nn.Conv2d(hidden, hidden, 3, padding=1)
        for parameter in self.second.parameters():
            nn.init.uniform_(parameter, -BLOCK_BOUND, BLOCK_BOUND)

    def forward(self, x: Tensor) -> Tensor:
        """Add to (B, hidden, H, W)."""
        norm_first, norm_second = self.norms
        h = self.first(F.relu(norm_first(x)))
        h = F.dropout(F.relu(norm_second(h)), self.dropout, self.training)
        return x + self.second(h)
