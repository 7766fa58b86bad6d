"""Energies: densities on the plane that are known up to a constant, to fit by reverse KL."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from .toys import Toy

SIDE = 4.0  # of the square [-4, 4]^2 that the paper shows
WALL_WIDTH = 0.1  # of the Gaussian fall beyond it
BOX = 5.0  # beyond [-5, 5]^2 the wall alone is over 50 nats
NODES = 501  # a side of the quadrature; a node stands on each side of the square
CHUNK = 2**17
TINY = 1e-30  # a squared radius, under which the slope of a radius is taken for 0


@dataclass(frozen=True, kw_only=True)
class Energy(Toy):
    """p(z) = exp(-U(z) - W(z)) / Z, an energy U of Rezende & Mohamed (2015, table 1) in a box.

    U2 to U4 do not grow along z_1, so that exp(-U) has no integral over the plane. The wall around
    the square [-4, 4]^2 that the paper shows, W(z) = sum_i max(|z_i| - 4, 0)^2 / (2 0.1^2), gives
    it one; it changes nothing inside. A subclass provides `potential`, U, and `LEAST`, which is
    below U everywhere.
    """

    sizes: tuple[int, int, int] = (100_000, 10_000, 10_000)

    LEAST: ClassVar[float]

    @abstractmethod
    def potential(self, z1: Any, z2: Any, xp: Any) -> Any:
        """U of coordinates (n,), arrays of the module `xp`."""

    def energy(self, z: Any, xp: Any = np) -> Any:
        """U + W in nats, z (n, 2) -> (n,), in arrays of the module `xp`: numpy or torch.

        Finite in float32, as is its gradient, wherever the squares of the coordinates are.
        """
        beyond = xp.clip(abs(z) - SIDE, 0, None) / WALL_WIDTH
        return self.potential(z[..., 0], z[..., 1], xp) + 0.5 * (beyond * beyond).sum(-1)

    @cached_property
    def log_normalizer(self) -> float:
        """log Z in nats, by the trapezoidal rule on [-5, 5]^2 with steps of 0.02 in float64.

        Within 1e-7: half the step changes it by less, and what is outside is below exp(-50).
        """
        return log_integral(self, NODES)

    def density(self, x: np.ndarray) -> np.ndarray:
        """The log-density, x (n, 2) float64 -> (n,), in nats."""
        found: np.ndarray = -self.energy(x) - self.log_normalizer
        return found

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Independent draws, (n, 2) float64, of [-5, 5]^2: uniform ones, as often as p(z)."""
        kept: list[np.ndarray] = [np.empty((0, 2))]
        while sum(map(len, kept)) < n:
            z = rng.uniform(-BOX, BOX, (CHUNK, 2))
            # An exponential variable is over e with probability exp(-e).
            kept.append(z[rng.exponential(size=CHUNK) > self.energy(z) - self.LEAST])
        return np.concatenate(kept)[:n]


def log_integral(energy: Energy, nodes: int) -> float:
    """The log of the integral of exp(-energy) over [-5, 5]^2, from nodes^2 points."""
    axis = np.linspace(-BOX, BOX, nodes)
    # At the ends exp(-W) is below exp(-50): their half weights are as good as whole ones.
    total = 0.0
    for z1 in np.array_split(axis, 16):
        points = np.stack(np.meshgrid(z1, axis, indexing="ij"), axis=-1).reshape(-1, 2)
        total += float(np.exp(-energy.energy(points)).sum())
    return float(np.log(total * (axis[1] - axis[0]) ** 2))


def scaled_square(x: Any, width: float) -> Any:
    """(x / width)^2 / 2."""
    return 0.5 * (x / width) * (x / width)


def wave(z1: Any, xp: Any) -> Any:
    """w_1 = sin(2 pi z_1 / 4)."""
    return xp.sin(0.5 * np.pi * z1)


@dataclass(frozen=True, kw_only=True)
class TwoArcs(Energy):
    """U_1 = ((|z| - 2) / 0.4)^2 / 2 - log(e(z_1 - 2) + e(z_1 + 2)), e(x) = exp(-(x / 0.6)^2 / 2).

    A ring of radius 2 of which two arcs are left.
    """

    name: str = "u1"
    title: str = "Energy U1 (Rezende & Mohamed 2015)"

    LEAST: ClassVar[float] = -1e-6  # the farther arc adds exp(-22) where one is at its highest

    def potential(self, z1: Any, z2: Any, xp: Any) -> Any:
        """U_1 of coordinates (n,)."""
        radius = xp.sqrt(xp.clip(z1 * z1 + z2 * z2, TINY, None))
        arcs = xp.logaddexp(-scaled_square(z1 - 2, 0.6), -scaled_square(z1 + 2, 0.6))
        return scaled_square(radius - 2, 0.4) - arcs


@dataclass(frozen=True, kw_only=True)
class Wave(Energy):
    """U_2 = ((z_2 - w_1) / 0.4)^2 / 2, a band along a sine."""

    name: str = "u2"
    title: str = "Energy U2 (Rezende & Mohamed 2015)"

    LEAST: ClassVar[float] = 0.0

    def potential(self, z1: Any, z2: Any, xp: Any) -> Any:
        """U_2 of coordinates (n,)."""
        return scaled_square(z2 - wave(z1, xp), 0.4)


@dataclass(frozen=True, kw_only=True)
class SplitWave(Energy):
    """U_3 = -log(exp(-((z_2 - w_1) / 0.35)^2 / 2) + exp(-((z_2 - w_1 + w_2) / 0.35)^2 / 2)).

    w_2 = 3 exp(-((z_1 - 1) / 0.6)^2 / 2): the band is two around z_1 = 1.
    """

    name: str = "u3"
    title: str = "Energy U3 (Rezende & Mohamed 2015)"

    LEAST: ClassVar[float] = float(-np.log(2))

    def potential(self, z1: Any, z2: Any, xp: Any) -> Any:
        """U_3 of coordinates (n,)."""
        offset = z2 - wave(z1, xp)
        apart = 3 * xp.exp(-scaled_square(z1 - 1, 0.6))
        upper, lower = scaled_square(offset, 0.35), scaled_square(offset + apart, 0.35)
        return -xp.logaddexp(-upper, -lower)


@dataclass(frozen=True, kw_only=True)
class ForkedWave(Energy):
    """U_4 = -log(exp(-((z_2 - w_1) / 0.4)^2 / 2) + exp(-((z_2 - w_1 + w_3) / 0.35)^2 / 2)).

    w_3 = 3 / (1 + exp((1 - z_1) / 0.3)): the band is two from z_1 = 1 on.
    """

    name: str = "u4"
    title: str = "Energy U4 (Rezende & Mohamed 2015)"

    LEAST: ClassVar[float] = float(-np.log(2))

    def potential(self, z1: Any, z2: Any, xp: Any) -> Any:
        """U_4 of coordinates (n,)."""
        offset = z2 - wave(z1, xp)
        apart = 1.5 * (1 + xp.tanh((z1 - 1) / 0.6))  # a logistic function that cannot overflow
        upper, lower = scaled_square(offset, 0.4), scaled_square(offset + apart, 0.35)
        return -xp.logaddexp(-upper, -lower)
