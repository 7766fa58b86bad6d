"""A perceptron as a velocity field whose weights differ from row to row, by low rank."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .activations import ACTIVATIONS
from .context import check_context
from .field import Field
from .mlp_field import IN_CACHE, IN_MEMORY, SLOPES, check_names
from .time_layers import LAYERS


@dataclass(frozen=True)
class Layer:
    """``(W + U V^T) h + c`` for rows h (B, in): W (out, in) of all, the rest of each.

    U is ``left`` (B, out, R), V ``right`` (B, in, R), c ``shift`` (B, out).
    """

    weight: Tensor
    left: Tensor
    right: Tensor
    shift: Tensor

    def __call__(self, h: Tensor) -> Tensor:
        """The images (B, out) of rows (B, in)."""
        change = (h.unsqueeze(1) @ self.right) @ self.left.mT  # (B, 1, out)
        return torch.addmm(self.shift, h, self.weight.t()) + change.squeeze(1)

    def pull(self, ways: Tensor) -> Tensor:
        """``e^T (W + U V^T)`` (B, k, in) for the ways e (B, k, out), or (1, k, out) for all."""
        return ways @ self.weight + (ways @ self.left) @ self.right.mT


class LowRankField(Field):
    """``f(t, x) = W_L(t) a(... a(W_1(t) x + c_1(t)) ...) + c_L(t)`` with weights of each row.

    ``W_l(t) = W_l(t) + U_l V_l^T`` and ``c_l(t) = c_l(t) + b_l`` with U, V of rank R and b given
    for every row: what an encoder says of it (Grathwohl et al. 2018, section 4.2 and authors'
    code ``cnf_rank``). They are the context, (B, n_numbers) in one: U_1, ..., U_L, V_1, ..., V_L,
    b_1, ..., b_L. ``initial`` is where a map from features to them may start from.

    Args:
        features: D of the points (B, D).
        hidden: widths of the hidden layers.
        rank: R.
        layer: name in ``LAYERS`` of how W and c change with time, for all rows alike.
        activation: ``softplus`` or ``tanh``.
    """

    def __init__(
        self,
        features: int,
        *,
        hidden: Sequence[int],
        rank: int,
        layer: str = "concat",
        activation: str = "softplus",
    ) -> None:
        super().__init__()
        check_names(layer, activation)
        if rank < 1:
            raise ValueError(f"rank: expected at least 1, got {rank}")
        self.n_dims, self.rank, self.activation = features, rank, activation
        self.pairs = list(pairwise([features, *hidden, features]))
        self.layers = LAYERS[layer]([features, *hidden, features])
        self.widths = [n_out for _, n_out in self.pairs] + [n_in for n_in, _ in self.pairs]
        self.sizes = [rank * width for width in self.widths] + [sum(self.layers.sizes)]
        self.n_numbers = sum(self.sizes)

    def initial(self) -> Tensor:
        """Numbers (n_numbers,) that change nothing, and have a gradient: U and b are 0, V is
        N(0, 1 / in), so that V^T h is of the size of h's numbers.
        """
        n_layers = len(self.pairs)
        lefts = torch.zeros(sum(self.sizes[:n_layers]))
        rights = [torch.randn(n_in * self.rank) * n_in**-0.5 for n_in, _ in self.pairs]
        return torch.cat([lefts, *rights, torch.zeros(self.sizes[-1])])

    def chain(self, t: Tensor, context: Tensor | None) -> list[Layer]:
        """The layers at the scalar t."""
        check_context(context, self.n_numbers)
        assert context is not None
        weights, shift = self.layers.affine(t)
        *parts, bias = context.split(self.sizes, dim=1)
        shifts = (shift + bias).split(self.layers.sizes, dim=1)
        factors = [
            part.view(len(part), width, self.rank)
            for part, width in zip(parts, self.widths, strict=True)
        ]
        lefts, rights = factors[: len(shifts)], factors[len(shifts) :]
        return [Layer(*each) for each in zip(weights, lefts, rights, shifts, strict=True)]

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The velocity (B, D) of x at the scalar t."""
        activate = ACTIVATIONS[self.activation]
        first, *others = self.chain(t, context)
        h = first(x)
        for layer in others:
            h = layer(activate(h))
        return h

    def linearize(
        self, t: Tensor, x: Tensor, context: Tensor | None
    ) -> tuple[Tensor, list[Layer], list[Tensor]]:
        """The velocity, and what its Jacobian is a product of: layers, and slopes (B, hidden)."""
        first, *others = layers = self.chain(t, context)
        h, slopes = first(x), []
        for layer in others:
            h, slope = SLOPES[self.activation](h)
            slopes.append(slope)
            h = layer(h)
        return h, layers, slopes

    def vjp(
        self, t: Tensor, x: Tensor, probes: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The velocity, and ``e^T df/dx`` for each of the probes e, both (k, B, D)."""
        velocity, layers, slopes = self.linearize(t, x, context)
        return velocity, pull(probes.transpose(0, 1), layers, slopes).transpose(0, 1)

    def divergence(
        self, t: Tensor, x: Tensor, probes: Tensor | None = None, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The velocity (B, D), and its divergence (B,): exact, or estimated from probes."""
        if probes is not None:
            return super().divergence(t, x, probes, context)
        velocity, layers, slopes = self.linearize(t, x, context)
        room = IN_CACHE if x.is_cpu else IN_MEMORY
        chunk = max(1, room // max(1, len(x) * max(self.layers.sizes)))
        total = x.new_zeros(len(x))
        for ways in torch.eye(x.shape[1], dtype=x.dtype, device=x.device).split(chunk):
            rows = pull(ways.unsqueeze(0), layers, slopes)  # (B, chunk, D)
            total = total + (rows * ways).flatten(1).sum(1)
        return velocity, total


def pull(ways: Tensor, layers: Sequence[Layer], slopes: Sequence[Tensor]) -> Tensor:
    """``e^T W_L S_{L-1} ... S_1 W_1`` (B, k, D) for the ways e (B, k, D), or (1, k, D) for all."""
    rows = layers[-1].pull(ways)
    for layer, slope in zip(reversed(layers[:-1]), reversed(slopes), strict=True):
        rows = layer.pull(rows * slope.unsqueeze(1))
    return rows
