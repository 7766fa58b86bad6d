"""An autoregressive network of images: masked convolutions."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from .activations import ACTIVATIONS, check_activation
from .normalized import NormalizedConv

KERNEL = 3


class ConvMADE(nn.Module):
    """m and s of each dimension of an image, given those before it and a context.

    The order is that of rows, of pixels in a row, and of channels in a pixel; ``reverse`` turns it
    round. Masked 3x3 convolutions with normalized weights (van den Oord et al. 2016; Kingma et
    al. 2016, appendix C.3): a hidden channel has the degree of a channel of z, and sees at its
    pixel those of at most this degree, an output those below its own. The context
    (B, hidden[0], H, W) is added to the first hidden layer; without hidden layers, where the map
    of z is linear, there is none.

    Args:
        channels: of z. hidden: of the layers between z and the outputs.
    """

    def __init__(
        self,
        channels: int,
        *,
        hidden: Sequence[int] = (160, 160),
        activation: str = "elu",
        reverse: bool = False,
    ) -> None:
        super().__init__()
        self.activation = check_activation(activation)
        self.context_channels = hidden[0] if hidden else 0
        inputs = torch.arange(channels)
        if reverse:
            inputs = inputs.flip(0)
        degrees = [inputs, *(hidden_degrees(channels, width) for width in hidden)]
        self.hidden = nn.ModuleList(
            masked_conv(mask(before, after, reverse=reverse))
            for before, after in pairwise(degrees)
        )
        last = mask(degrees[-1], inputs.repeat(2), strict=True, reverse=reverse)
        self.last = masked_conv(last)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return m and s, each (B, channels, H, W).

        Raises:
            ValueError: if there is no context where one is expected, or one where none is.
        """
        if (context is not None) != bool(self.context_channels):
            wanted = f"(B, {self.context_channels}, H, W)" if self.context_channels else "none"
            got = None if context is None else tuple(context.shape)
            raise ValueError(f"context: expected {wanted}, got {got}")
        h = z
        for layer, conv in enumerate(self.hidden):
            h = conv(h)
            if layer == 0:
                h = h + context
            h = ACTIVATIONS[self.activation](h)
        m, s = self.last(h).chunk(2, dim=1)
        return m, s


def masked_conv(allowed: Tensor) -> NormalizedConv:
    """A convolution with the weights that a mask (n_out, n_in, 3, 3) allows."""
    n_out, n_in = allowed.shape[:2]
    return NormalizedConv(n_in, n_out, KERNEL, mask=allowed)


def hidden_degrees(channels: int, width: int) -> Tensor:
    """Degrees of the channels of a hidden layer, in steps as even as they can be, from 0 if there
    are as many as of z, to the last of z.
    """
    return ((torch.arange(width) + 1) * channels - 1) // width


def mask(before: Tensor, after: Tensor, *, strict: bool = False, reverse: bool = False) -> Tensor:
    """The 0/1 mask (n_out, n_in, 3, 3) of a convolution between channels of these degrees.

    All channels of earlier pixels are seen, of later ones if ``reverse``, and at the pixel itself
    those of a degree at most, or if ``strict`` below, the output's.
    """
    middle = KERNEL // 2
    allowed = torch.zeros(len(after), len(before), KERNEL, KERNEL)
    allowed[:, :, :middle] = 1
    allowed[:, :, middle, :middle] = 1
    if reverse:
        allowed = allowed.flip(2, 3)
    own, others = after[:, None], before[None]
    allowed[:, :, middle, middle] = (own > others if strict else own >= others).to(allowed.dtype)
    return allowed
