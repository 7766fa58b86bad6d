"""Linear layers that change with time: ``W(t) h + c(t)``, all layers of a network at once."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HYPER_UNITS, HYPER_SPREAD = 8, 0.01  # of the networks of ``Hyper`` (authors' code)


class TimeLayers(nn.Module, ABC):
    """One affine map for each two widths that follow each other.

    What has one number for each output is one vector for all layers together, so that a time
    costs a few operations whatever the depth. Weights and biases start as those of ``nn.Linear``,
    U(-r, r) with r = fan_in^-1/2, in each part; the fan_in of what is linear in t alone is 1.
    """

    def __init__(self, widths: Sequence[int], *, n_inputs: int = 0) -> None:
        super().__init__()
        self.sizes = list(widths[1:])
        self.bounds = [(i + n_inputs) ** -0.5 for i in widths[:-1]]
        self.weights = self.matrices(widths)
        self.bias = self.vector(self.bounds)

    def matrices(self, widths: Sequence[int]) -> nn.ParameterList:
        """A weight (out, in) for each layer."""
        return nn.ParameterList(
            torch.empty(o, i).uniform_(-r, r)
            for (i, o), r in zip(pairwise(widths), self.bounds, strict=True)
        )

    def vector(self, bounds: Sequence[float] | None = None) -> nn.Parameter:
        """A number for each output of each layer, within the bound of its layer; 1 without."""
        bounds = bounds or [1.0] * len(self.sizes)
        parts = [torch.empty(n).uniform_(-r, r) for n, r in zip(self.sizes, bounds, strict=True)]
        return nn.Parameter(torch.cat(parts))

    def each(self, vector: Tensor) -> tuple[Tensor, ...]:
        """The parts (..., out) of vectors that belong to each layer."""
        return vector.split(self.sizes, dim=-1)

    @abstractmethod
    def affine(self, t: Tensor) -> tuple[list[Tensor], Tensor]:
        """W(t) (out, in) of each layer, and c(t) of all layers in one vector."""


class GatedLayers(TimeLayers):
    """``g(t) (W h + b) + c(t)``: one gate g for each output, and W and b that do not change.

    At one time for all rows the gates are folded into the weights; where each row has a time of
    its own they are kept apart, so that no row needs weights of its own.
    """

    def gate(self, t: Tensor) -> Tensor | None:
        """g(t) of all layers in one vector, or a row for each t of (B, 1); None if it is 1."""
        return None

    def shift(self, t: Tensor) -> Tensor | None:
        """c(t), likewise; None if it is 0."""
        return None

    def each_if(self, vector: Tensor | None) -> Sequence[Tensor | None]:
        """The parts (..., out) of vectors that belong to each layer; a None for each without."""
        return [None] * len(self.sizes) if vector is None else self.each(vector)

    def affine(self, t: Tensor) -> tuple[list[Tensor], Tensor]:
        """g(t) W (out, in) of each layer, and g(t) b + c(t) of all layers in one vector."""
        weights: list[Tensor] = list(self.weights)
        bias: Tensor = self.bias
        gate, shift = self.gate(t), self.shift(t)
        if gate is not None:
            gates = zip(self.weights, self.each(gate), strict=True)
            weights, bias = [weight * g.unsqueeze(1) for weight, g in gates], bias * gate
        return weights, bias if shift is None else bias + shift


class Ignore(GatedLayers):
    """``W h + b``, at any time."""


class Concat(GatedLayers):
    """``W h + b + v t``: the time is one input more of each layer."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__(widths, n_inputs=1)
        self.time = self.vector(self.bounds)

    def shift(self, t: Tensor) -> Tensor:
        """v t."""
        return line(t, self.time)


class Squash(GatedLayers):
    """``(W h + b) sigmoid(u t + a)``: the time is a gate on each output."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__(widths)
        self.gate_time, self.gate_bias = self.vector(), self.vector()

    def gate(self, t: Tensor) -> Tensor:
        """sigmoid(u t + a)."""
        return line(t, self.gate_time, self.gate_bias).sigmoid()


class ConcatSquash(GatedLayers):
    """``(W h + b) sigmoid(u t + a) + v t``: a gate and an input more."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__(widths)
        self.time, self.gate_time, self.gate_bias = self.vector(), self.vector(), self.vector()

    def gate(self, t: Tensor) -> Tensor:
        """sigmoid(u t + a)."""
        return line(t, self.gate_time, self.gate_bias).sigmoid()

    def shift(self, t: Tensor) -> Tensor:
        """v t."""
        return line(t, self.time)


class Blend(TimeLayers):
    """``(1 - t) (W h + b) + t (W' h + b')``: from one layer at time 0 to another at time 1."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__(widths)
        self.last_weights, self.last_bias = self.matrices(widths), self.vector(self.bounds)

    def affine(self, t: Tensor) -> tuple[list[Tensor], Tensor]:
        """W + (W' - W) t of each layer, and b + (b' - b) t."""
        pairs = zip(self.weights, self.last_weights, strict=True)
        return [a.lerp(b, t) for a, b in pairs], self.bias.lerp(self.last_bias, t)


class Hyper(TimeLayers):
    """``W(t) h + b(t)``, both of a small network of t for each layer: 1 - 8 - their number, tanh.

    Its weights start at zero and its biases at N(0, 0.01^2): the layers start small, the same at
    any time (authors' code of Grathwohl et al. 2018).
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__(widths)
        n_layers = len(self.sizes)
        self.unit_time = nn.Parameter(torch.zeros(n_layers, HYPER_UNITS))
        self.unit_bias = nn.Parameter(torch.empty(n_layers, HYPER_UNITS))
        self.bias_units = nn.Parameter(torch.zeros(sum(self.sizes), HYPER_UNITS))
        self.weight_units = nn.ParameterList(
            torch.zeros(*weight.shape, HYPER_UNITS) for weight in self.weights
        )
        for parameter in (self.unit_bias, self.bias, *self.weights):
            nn.init.normal_(parameter, std=HYPER_SPREAD)

    def affine(self, t: Tensor) -> tuple[list[Tensor], Tensor]:
        """W(t) of each layer, and b(t)."""
        units = torch.addcmul(self.unit_bias, self.unit_time, t).tanh()  # (layers, 8)
        triples = zip(self.weights, self.weight_units, units, strict=True)
        weights = [weight + change @ unit for weight, change, unit in triples]
        changes = zip(self.bias_units.split(self.sizes), units, strict=True)
        return weights, self.bias + torch.cat([change @ unit for change, unit in changes])


def gated(
    h: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None, shift: Tensor | None
) -> Tensor:
    """``g (W h + b) + c`` of rows h (B, in), g and c (B, out) where there are any."""
    if gate is None:
        return torch.addmm(bias if shift is None else bias + shift, h, weight.t())
    h = torch.addmm(bias, h, weight.t())
    return h * gate if shift is None else torch.addcmul(shift, h, gate)


def line(t: Tensor, slope: Tensor, start: Tensor | None = None) -> Tensor:
    """``start + slope t``, numbers (n,) of a scalar t, or a row of them for each t of (B, 1)."""
    if t.dim():
        return F.linear(t, slope.unsqueeze(1), start)
    return slope * t if start is None else torch.addcmul(start, slope, t)


LAYERS: dict[str, type[TimeLayers]] = {
    "ignore": Ignore,
    "concat": Concat,
    "squash": Squash,
    "concatsquash": ConcatSquash,
    "blend": Blend,
    "hyper": Hyper,
}
