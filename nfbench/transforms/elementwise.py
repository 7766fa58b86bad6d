"""Elementwise maps whose parameters a conditioner supplies: the inside of couplings and MAF."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .tolerance import check_positive

# softplus(x + SOFTPLUS_SHIFT) = 1 at x = 0, so that a zero output means the identity.
SOFTPLUS_SHIFT = math.log(math.e - 1)


def log_softplus(y: Tensor) -> Tensor:
    """The log of softplus(y), which is y itself where exp y would underflow."""
    return torch.where(y > -36, F.softplus(y.clamp(min=-36)).log(), y)


# A map from the raw output a of a network (and a bound) to the log of the multiplicative scale,
# data -> noise.
SCALES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "exp": lambda a, bound: a,
    "log_precision": lambda a, bound: 0.5 * a,
    "tanh": lambda a, bound: bound * torch.tanh(a / bound),
    "sigmoid": lambda a, bound: F.logsigmoid(a + 2.0),
    "softplus": lambda a, bound: log_softplus(a + SOFTPLUS_SHIFT),
    "clamp": lambda a, bound: a.clamp(-bound, bound),
}


# One tensor (P, *x.shape), or P tensors shaped as x.
Parameters = Tensor | Sequence[Tensor]


class Elementwise(nn.Module, ABC):
    """A monotone scalar map applied to each dimension, with ``n_parameters`` numbers per
    dimension.
    """

    n_parameters: int

    @abstractmethod
    def forward(self, x: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Map ``x`` with its ``n_parameters`` parameters; return z and log|dz/dx|, shaped as x."""

    @abstractmethod
    def inverse(self, z: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Map ``z`` back; return x and log|dx/dz|, shaped as z."""


class Additive(Elementwise):
    """Shift alone: ``z = x - m`` (Dinh et al. 2014, section 3.2; signed as in ``Affine``)."""

    n_parameters = 1

    def forward(self, x: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Return z = x - m and 0."""
        return x - parameters[0], torch.zeros_like(x)

    def inverse(self, z: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Return x = z + m and 0."""
        return z + parameters[0], torch.zeros_like(z)


class Affine(Elementwise):
    """Shift, then scale: ``z = (x - m) exp(s)`` with ``s = scale(a)`` and parameters (m, a).

    ``scale`` names the map from the network's output a to the log-scale s:
    ``exp`` s = a; ``log_precision`` s = a/2 (Papamakarios et al. 2017, MAF);
    ``tanh`` s = b tanh(a/b); ``sigmoid`` s = log sigmoid(a + 2) (Kingma & Dhariwal 2018, Glow);
    ``softplus`` s = log softplus(a + log(e-1)); ``clamp`` s = a cut to [-b, b]; b is ``bound``.

    Raises:
        ValueError: if ``scale`` is none of these, or ``bound`` is not positive and finite.
    """

    n_parameters = 2

    def __init__(self, *, scale: str = "exp", bound: float = 5.0) -> None:
        super().__init__()
        if scale not in SCALES:
            raise ValueError(f"scale: expected one of {', '.join(SCALES)}; got {scale!r}")
        check_positive(scale_bound=bound)
        self.scale, self.bound = scale, bound

    def log_scale(self, a: Tensor) -> Tensor:
        """The log of the multiplicative scale, s = scale(a), in nats."""
        return SCALES[self.scale](a, self.bound)

    def forward(self, x: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Return z = (x - m) exp(s) and s."""
        shift, a = parameters
        log_scale = self.log_scale(a)
        return (x - shift) * log_scale.exp(), log_scale

    def inverse(self, z: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Return x = z exp(-s) + m and -s."""
        shift, a = parameters
        log_scale = -self.log_scale(a)
        return z * log_scale.exp() + shift, log_scale


class Gate(Elementwise):
    """``z = g x + (1 - g) m`` with ``g = sigmoid(s + bias)`` and parameters (m, s); log|dz/dx| =
    log g.

    A step of Kingma et al. (2016, section 4): the gate keeps x or forgets it for m, and starts
    open if the bias is 1 to 2. The inverse is ``x = m + (z - m) / g``.
    """

    n_parameters = 2

    def __init__(self, *, bias: float = 1.0) -> None:
        super().__init__()
        self.bias = bias

    def forward(self, x: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Return z = g x + (1 - g) m and log g."""
        shift, raw = parameters
        log_gate = F.logsigmoid(raw + self.bias)
        return shift.lerp(x, log_gate.exp()), log_gate

    def inverse(self, z: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Return x = m + (z - m) / g and -log g."""
        shift, raw = parameters
        log_gate = F.logsigmoid(raw + self.bias)
        return shift + (z - shift) * torch.exp(-log_gate), -log_gate
