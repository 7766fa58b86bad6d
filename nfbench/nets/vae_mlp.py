"""Encoder and decoder of fully connected layers, plain or maxout."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn

from .activations import ACTIVATIONS
from .init import initialize

MAXOUT = "maxout"
WINDOW = 4  # linear functions of which a maxout unit is the largest


class MLPEncoder(nn.Module):
    """Features of data: (B, *event) -> (B, features), through hidden layers and one of features.

    The features are activated as the hidden layers are: what takes them is linear.

    Raises:
        ValueError: if there is no such activation.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        features: int = 256,
        hidden: Sequence[int] = (400,),
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.layers = stack([prod(event_shape), *hidden, features], activation)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, *event) to (B, features)."""
        return self.layers(x.flatten(1))


class MLPDecoder(nn.Module):
    """Parameters of each dimension: (B, latent) -> (B, n_parameters, *event).

    The last layer is linear.

    Raises:
        ValueError: if there is no such activation.
    """

    def __init__(
        self,
        latent: int,
        event_shape: Sequence[int],
        *,
        n_parameters: int = 1,
        hidden: Sequence[int] = (400,),
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.parameters_shape = (n_parameters, *event_shape)
        self.layers = stack([latent, *hidden], activation)
        self.last = linear([latent, *hidden][-1], prod(self.parameters_shape))

    def forward(self, z: Tensor) -> Tensor:
        """Map (B, latent) to (B, n_parameters, *event)."""
        return self.last(self.layers(z)).unflatten(1, self.parameters_shape)


class Dense(nn.Module):
    """``a(W x + b)``; with ``maxout`` ``max_j (W_j x + b_j)``, j = 1..4 (Goodfellow et al. 2013).

    Weights start as N(0, 1/(n_in + 1)), biases as 0.
    """

    def __init__(self, n_in: int, n_out: int, activation: str) -> None:
        super().__init__()
        names = [*ACTIVATIONS, MAXOUT]
        if activation not in names:
            raise ValueError(f"activation: expected one of {', '.join(names)}; got {activation!r}")
        self.activate = ACTIVATIONS.get(activation)  # none where it is maxout
        self.linear = linear(n_in, n_out if self.activate else WINDOW * n_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, n_in) to (B, n_out)."""
        h = self.linear(x)
        if self.activate is None:
            return h.unflatten(1, (WINDOW, -1)).amax(1)
        return self.activate(h)


def stack(widths: Sequence[int], activation: str) -> nn.Sequential:
    """A ``Dense`` layer between each two widths."""
    return nn.Sequential(*(Dense(n_in, n_out, activation) for n_in, n_out in pairwise(widths)))


def linear(n_in: int, n_out: int) -> nn.Linear:
    """A linear layer that starts as those of ``initialize`` do."""
    layer = nn.Linear(n_in, n_out)
    initialize([layer.weight], [layer.bias], "paper")
    return layer
