"""How closely the steps of an ODE's solver are controlled."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def rms(parts: Sequence[Tensor]) -> Tensor:
    """The largest root mean square of the parts of a state; NaN if any is."""
    return torch.stack([part.square().mean() for part in parts]).max().sqrt()


def largest(parts: Sequence[Tensor]) -> Tensor:
    """The largest absolute value of all components of a state; NaN if any is."""
    return torch.stack([part.abs().max() for part in parts]).max()


# From the parts of a state, here an error as multiples of what is allowed, to a number.
NORMS: dict[str, Callable[[Sequence[Tensor]], Tensor]] = {"rms": rms, "max": largest}


@dataclass(frozen=True)
class Tolerance:
    """A step's error is at most ``atol + rtol |y|``, in a norm that is a name in ``NORMS``.

    A relative one below four times the rounding error of the state would never be met, and is
    taken as that.
    """

    atol: float
    rtol: float
    norm: str = "rms"

    def relative(self, dtype: torch.dtype) -> float:
        """The relative one, for states of this precision."""
        return max(self.rtol, 4 * torch.finfo(dtype).eps)

    def scale(self, y: Tensor) -> Tensor:
        """What errors of states of these absolute values are measured by."""
        return y * self.relative(y.dtype) + self.atol

    def measure(self, parts: Sequence[Tensor]) -> Tensor:
        """The norm of the parts of a state."""
        return NORMS[self.norm](parts)


def check_positive(**numbers: float) -> None:
    """Refuse a number that is not positive, or not finite."""
    for option, number in numbers.items():
        if not 0 < number < math.inf:
            raise ValueError(f"{option}: expected a positive number, got {number}")
