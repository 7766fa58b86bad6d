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


def check_used(gradient: str, norm: str, **numbers: float | None) -> None:
    """Refuse numbers that are not positive, and what would have no say.

    That is what is of an adjoint solve where there is none, or a norm where steps have a size.
    """
    given = {name: number for name, number in numbers.items() if number is not None}
    check_positive(**given)
    for name in {"adjoint_atol", "adjoint_rtol"} & set(given):
        if gradient != "adjoint":
            raise ValueError(f"{name}: expected null, as gradient={gradient} solves no adjoint")
    if norm != "rms" and "step_size" in given:
        raise ValueError(f"norm: expected rms, as steps of a size are not controlled; got {norm}")
