"""Linear layers that change with time: ``W(t) h + c(t)``, all layers of a network at once."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import torch
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
        """The parts (out,) of a vector that belong to each layer."""
        return vector.split(self.sizes)

    @abstractmethod
    def affine(self, t: Tensor) -> tuple[list[Tensor], Tensor]:
        """W(t) (out, in) of each layer, and c(t) of all layers in one vector."""


class Ignore(TimeLayers):
    """``W h + b``, at any time."""

    def affine(self, t: Tensor) -> tuple[list[Tensor], Tensor]:
        """W of each layer, and b."""
        return list(self.weights), self.bias


class Concat(TimeLayers):
    """``W h + b + v t``: the time is one input more of each layer."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__(widths, n_inputs=1)
        self.time = self.vector(self.bounds)

    def affine(self, t: Tensor) -> tuple[list[Tensor], Tensor]:
        """W of each layer, and b + v t."""
        return list(self.weights), torch.addcmul(self.bias, self.time, t)


class Squash(TimeLayers):
    """``(W h + b) sigmoid(u t + a)``: the time is a gate on each output."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__(widths)
        self.gate_time, self.gate_bias = self.vector(), self.vector()

    def affine(self, t: Tensor) -> tuple[list[Tensor], Tensor]:
        """G W of each layer and G b, G the gates on the diagonal."""
        gate = torch.addcmul(self.gate_bias, self.gate_time, t).sigmoid()
        gates = zip(self.weights, self.each(gate), strict=True)
        return [weight * g.unsqueeze(1) for weight, g in gates], self.bias * gate


class ConcatSquash(TimeLayers):
    """``(W h + b) sigmoid(u t + a) + v t``: a gate and an input more."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__(widths)
        self.time, self.gate_time, self.gate_bias = self.vector(), self.vector(), self.vector()

    def affine(self, t: Tensor) -> tuple[list[Tensor], Tensor]:
        """G W of each layer and G b + v t, G the gates on the diagonal."""
        gate = torch.addcmul(self.gate_bias, self.gate_time, t).sigmoid()
        gates = zip(self.weights, self.each(gate), strict=True)
        shift = torch.addcmul(self.bias * gate, self.time, t)
        return [weight * g.unsqueeze(1) for weight, g in gates], shift


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
        changes = zip(self.each(self.bias_units), units, strict=True)
        return weights, self.bias + torch.cat([change @ unit for change, unit in changes])


LAYERS: dict[str, type[TimeLayers]] = {
    "ignore": Ignore,
    "concat": Concat,
    "squash": Squash,
    "concatsquash": ConcatSquash,
    "blend": Blend,
    "hyper": Hyper,
}
