"""Convolutions as a velocity field of images."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .activations import ACTIVATIONS, check_activation
from .context import check_context
from .field import Field

KERNEL, PADDING = 3, 1


class ConvField(Field):
    """3x3 convolutions, between which there are activations; the time is a channel more of each.

    As in the authors' code of Grathwohl et al. (2018): ``f(t, x) = C_L a(... a(C_1 x) ...)`` with
    ``C h = W * h + V * (t 1) + b``. Beyond the edges all channels are zero, also that of the time,
    so that a layer sees where the edges are. A context is added to each bias through a linear map.

    Weights and biases start as those of ``nn.Conv2d``, U(-r, r) with r = fan_in^-1/2.

    Args:
        channels: C of the images (B, C, H, W).
        hidden: channels of the hidden layers.
        activation: name in ``ACTIVATIONS``; a divergence with a gradient needs a smooth slope.
        context_features: of the context (B, context_features).
    """

    def __init__(
        self,
        channels: int,
        *,
        hidden: Sequence[int] = (64, 64, 64),
        activation: str = "softplus",
        context_features: int = 0,
    ) -> None:
        super().__init__()
        self.activation, self.context_features = check_activation(activation), context_features
        widths = [channels, *hidden, channels]
        self.sizes = widths[1:]
        self.weights, self.time_weights, self.biases = (nn.ParameterList() for _ in range(3))
        for n_in, n_out in pairwise(widths):
            bound = ((n_in + 1) * KERNEL**2) ** -0.5
            for parameters, shape in (
                (self.weights, (n_out, n_in, KERNEL, KERNEL)),
                (self.time_weights, (n_out, 1, KERNEL, KERNEL)),
                (self.biases, (n_out,)),
            ):
                parameters.append(nn.Parameter(torch.empty(shape).uniform_(-bound, bound)))
        self.context_weight = None
        if context_features:
            bound = context_features**-0.5
            weight = torch.empty(sum(self.sizes), context_features).uniform_(-bound, bound)
            self.context_weight = nn.Parameter(weight)

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The velocity (B, C, H, W) of x at the scalar t."""
        check_context(context, self.context_features)
        activate = ACTIVATIONS[self.activation]
        # A constant channel is convolved once for all rows, and leaves the others aligned.
        time = t.to(x.dtype).expand(1, 1, *x.shape[2:])
        shifts: Sequence[Tensor | None] = [None] * len(self.sizes)
        if self.context_weight is not None:
            shifts = F.linear(context, self.context_weight).split(self.sizes, dim=1)  # type: ignore[arg-type]
        h = x
        layers = zip(self.weights, self.time_weights, self.biases, shifts, strict=True)
        for layer, (weight, time_weight, bias, shift) in enumerate(layers):
            h = activate(h) if layer else h
            shared = F.conv2d(time, time_weight, padding=PADDING)  # (1, n_out, H, W)
            h = F.conv2d(h, weight, bias, padding=PADDING) + shared
            h = h if shift is None else h + shift[..., None, None]
        return h
