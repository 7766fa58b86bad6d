"""A multilayer perceptron as a velocity field, with its derivatives written out."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .activations import ACTIVATIONS
from .context import check_context
from .field import Field
from .time_layers import LAYERS, GatedLayers, gated

# Numbers that an exact trace holds at once: on a processor those of its cache, else memory.
IN_CACHE, IN_MEMORY = 2**18, 2**24


class MLPField(Field):
    """``f(t, x) = W_L a(... a(W_1 x + c_1) ...) + c_L`` with weights that change with time.

    How is said by ``layer``: ``ignore``, ``concat``, ``squash``, ``concatsquash``, ``blend`` or
    ``hyper``, as in the authors' code of Grathwohl et al. (2018). A context enters each layer as
    t does: c is linear in it. Products with the Jacobian ``W_L S_{L-1} ... S_1 W_1``, S the slopes
    of the activations on the diagonal, are written out: their gradient is one backward pass
    through what autograd sees as a forward one.

    Args:
        features: D of the points (B, D).
        hidden: widths of the hidden layers.
        layer: name in ``LAYERS``.
        activation: ``softplus`` or ``tanh``; a divergence with a gradient needs a smooth slope.
        context_features: of the context (B, context_features).
    """

    def __init__(
        self,
        features: int,
        *,
        hidden: Sequence[int],
        layer: str = "concatsquash",
        activation: str = "softplus",
        context_features: int = 0,
    ) -> None:
        super().__init__()
        check_names(layer, activation)
        self.n_dims, self.context_features, self.activation = (
            features,
            context_features,
            activation,
        )
        self.layers = LAYERS[layer]([features, *hidden, features])
        self.context_weight = None
        if context_features:
            size = sum(self.layers.sizes)
            bound = context_features**-0.5
            self.context_weight = nn.Parameter(
                torch.empty(size, context_features).uniform_(-bound, bound)
            )

    def affine(self, t: Tensor, context: Tensor | None) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """W(t) (out, in) of each layer, and its c(t) (out,), or (B, out) with a context."""
        check_context(context, self.context_features)
        weights, shift = self.layers.affine(t)
        if context is not None:
            shift = F.linear(context, self.context_weight, shift)  # type: ignore[arg-type]
        return weights, shift.split(self.layers.sizes, dim=-1)

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The velocity (B, D) of x at the scalar t."""
        activate = ACTIVATIONS[self.activation]
        weights, shifts = self.affine(t, context)
        h = torch.addmm(shifts[0], x, weights[0].t())
        for weight, shift in zip(weights[1:], shifts[1:], strict=True):
            h = torch.addmm(shift, activate(h), weight.t())
        return h

    def at_times(self, times: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The velocity (B, D) of each row of x at its own time, times (B,)."""
        if not isinstance(self.layers, GatedLayers):
            return super().at_times(times, x, context)
        check_context(context, self.context_features)
        activate = ACTIVATIONS[self.activation]
        gate, shift = (part(times.unsqueeze(1)) for part in (self.layers.gate, self.layers.shift))
        if context is not None:
            given = F.linear(context, self.context_weight)  # type: ignore[arg-type]
            shift = given if shift is None else shift + given
        gates, shifts = (self.layers.each_if(each) for each in (gate, shift))
        biases, h = self.layers.each(self.layers.bias), x
        parts = zip(self.layers.weights, biases, gates, shifts, strict=True)
        for layer, part in enumerate(parts):
            h = gated(activate(h) if layer else h, *part)
        return h

    def linearize(
        self, t: Tensor, x: Tensor, context: Tensor | None
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The velocity, and what its Jacobian is a product of: weights, and slopes (B, hidden)."""
        weights, shifts = self.affine(t, context)
        slopes = []
        h = torch.addmm(shifts[0], x, weights[0].t())
        for weight, shift in zip(weights[1:], shifts[1:], strict=True):
            h, slope = SLOPES[self.activation](h)
            slopes.append(slope)
            h = torch.addmm(shift, h, weight.t())
        return h, weights, slopes

    def vjp(
        self, t: Tensor, x: Tensor, probes: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The velocity, and ``e^T df/dx`` for each of the probes e, both (k, B, D)."""
        velocity, weights, slopes = self.linearize(t, x, context)
        rows = probes.flatten(0, 1) @ weights[-1]
        for weight, slope in zip(reversed(weights[:-1]), reversed(slopes), strict=True):
            if len(probes) > 1:  # else their dimension costs its sum on the way back
                rows = (rows.view(len(probes), *slope.shape) * slope).flatten(0, 1) @ weight
            else:
                rows = (rows * slope) @ weight
        return velocity, rows.view_as(probes)

    def divergence(
        self, t: Tensor, x: Tensor, probes: Tensor | None = None, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The velocity (B, D), and its divergence (B,): exact, or estimated from probes."""
        if probes is not None:
            return super().divergence(t, x, probes, context)
        velocity, weights, slopes = self.linearize(t, x, context)
        return velocity, trace(weights, slopes, len(x))


def trace(weights: list[Tensor], slopes: list[Tensor], n_rows: int) -> Tensor:
    """The trace (B,) of ``W_L S_{L-1} ... S_1 W_1``, the S diagonal and given as (B, width).

    It is that of ``S_{L-1} ... S_1 (W_1 W_L)``. So one hidden layer costs a product with a vector
    and two cost one product of a whole forward pass, whatever D is; with more, the D unit vectors
    are pushed through the inner layers, some at a time, from either end, and meet before the last
    of them.
    """
    first, *inner, last = weights if len(weights) > 1 else (weights[0], weights[0])
    if not slopes:
        return first.trace().expand(n_rows)
    if not inner:
        return slopes[0] @ torch.linalg.vecdot(first, last.t())
    if len(inner) == 1:
        return torch.linalg.vecdot(slopes[1] @ (inner[0] * (first @ last).t()), slopes[0])
    total = first.new_zeros(n_rows)
    width = max(len(weight) for weight in weights)
    room = IN_CACHE if first.is_cpu else IN_MEMORY
    chunk = max(1, room // (max(n_rows, width) * width))
    for columns, rows in zip(first.t().split(chunk), last.split(chunk), strict=True):
        tangents = push(columns, slopes[0], inner[0].t())  # (B, chunk, width)
        for weight, slope in zip(inner[1:-1], slopes[1:-2], strict=True):
            tangents = (tangents * slope.unsqueeze(1)) @ weight.t()
        cotangents = push(rows, slopes[-1], inner[-1])
        total = total + torch.linalg.vecdot((tangents * cotangents).sum(1), slopes[-2])
    return total


def push(vectors: Tensor, slope: Tensor, weight: Tensor) -> Tensor:
    """``v S W`` (B, k, out) of vectors v (k, in), slopes S (B, in) on the diagonal, W (in, out).

    With many rows it is one product ``S (v W)``, each v scaling the rows of W.
    """
    if len(slope) < len(weight):
        return (vectors * slope.unsqueeze(1)) @ weight
    scaled = vectors.t().unsqueeze(2) * weight.unsqueeze(1)  # (in, k, out)
    return (slope @ scaled.flatten(1)).view(len(slope), len(vectors), -1)


class Tanh(torch.autograd.Function):
    """tanh p and its slope ``s = 1 - tanh^2 p``, whose own slope is ``-2 s tanh p``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(p: Tensor) -> tuple[Tensor, Tensor]:
        """Value and slope."""
        return tanh_without_graph(p)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        """Keep both."""
        ctx.save_for_backward(*output)

    @staticmethod
    def backward(ctx: Any, grad_value: Tensor, grad_slope: Tensor) -> Tensor:
        """The gradient of p, in two passes over the numbers where autograd takes eight."""
        value, slope = ctx.saved_tensors
        return torch.addcmul(grad_value, value, grad_slope, value=-2).mul_(slope)


def tanh(p: Tensor) -> tuple[Tensor, Tensor]:
    """tanh p, and its slope 1 - tanh^2 p."""
    return Tanh.apply(p) if p.requires_grad else tanh_without_graph(p)


def tanh_without_graph(p: Tensor) -> tuple[Tensor, Tensor]:
    """The same as plain operations."""
    h = torch.tanh(p)
    return h, torch.addcmul(h.new_ones(()), h, h, value=-1)


def softplus(p: Tensor) -> tuple[Tensor, Tensor]:
    """``log(1 + exp p)`` to rounding, and its slope, the sigmoid s.

    Without a graph it is ``max(p, 0) - log max(s, 1 - s)``: on a processor half of the time of
    ``F.softplus``.
    """
    slope = torch.sigmoid(p)
    if not p.is_cpu or slope.requires_grad:
        return F.softplus(p), slope
    larger = 1 - slope
    torch.maximum(larger, slope, out=larger)
    return F.relu(p).sub_(larger.log_()), slope


# From p to the value and slope of an activation there.
SLOPES: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {"softplus": softplus, "tanh": tanh}


def check_names(layer: str, activation: str) -> None:
    """Refuse a name of no layer, or of no activation with a slope."""
    if layer not in LAYERS:
        raise ValueError(f"layer: expected one of {', '.join(LAYERS)}; got {layer!r}")
    if activation not in SLOPES:
        raise ValueError(f"activation: expected one of {', '.join(SLOPES)}; got {activation!r}")
