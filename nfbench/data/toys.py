"""Toys: distributions on the plane with a density in closed form and exact samples."""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from nfbench.errors import UsageError

from .dataset import Dataset, Splits


@dataclass(frozen=True, kw_only=True)
class Toy(Dataset):
    """A distribution on the plane, at home in [-4, 4] x [-4, 4].

    A subclass provides `sample` and `density`. The splits are drawn one after the other from one
    generator, seeded by the seed of the data set.
    """

    event_shape: tuple[int, ...] = (2,)
    sizes: tuple[int, int, int] = (500_000, 10_000, 10_000)

    density_known: ClassVar[bool] = True

    @abstractmethod
    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Independent draws, (n, 2) float64."""

    @abstractmethod
    def density(self, x: np.ndarray) -> np.ndarray:
        """The log-density, x (n, 2) float64 -> (n,), in nats."""

    def read(self, root: Path, seed: int) -> Splits:
        """Draw train, val and test, float32 (n, 2), one after the other from one generator."""
        rng = np.random.default_rng(seed)
        train, val, test = (self.sample(n, rng).astype(np.float32) for n in self.sizes)
        return Splits(train, val, test)

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """The true log-density, x (n, 2) -> (n,) float64, in nats.

        Raises:
            UsageError: points of another shape.
        """
        if x.ndim != 2 or x.shape[1:] != self.event_shape:
            raise UsageError(f"{self.name}: expected points of shape (n, 2), got {x.shape}")
        return self.density(x.astype(np.float64))


@dataclass(frozen=True, kw_only=True)
class Checkerboard(Toy):
    """Uniform on the 8 black squares of a 4 x 4 board over [-4, 4]^2.

    p(x) = 1/32 where floor(x_1 / 2) + floor(x_2 / 2) is even, 0 on the other squares.
    """

    name: str = "checkerboard"
    title: str = "Checkerboard"

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Independent draws, (n, 2) float64: a random black square, then a random cell of it."""
        row, pair = rng.integers(4, size=n), rng.integers(2, size=n)
        corner = 2.0 * np.stack([2 * pair + row % 2, row], axis=1) - 4
        # The middles of 2^20 cells: float32 holds them, so that no point is rounded onto an edge,
        # where the density is another.
        return corner + (rng.integers(2**20, size=(n, 2)) + 0.5) / 2**19

    def density(self, x: np.ndarray) -> np.ndarray:
        """The log-density, -log 32 or -inf, x (n, 2) float64 -> (n,), in nats."""
        square = np.floor(x / 2)
        on_board = ((square >= -2) & (square < 2)).all(axis=1)
        return np.where(on_board & (square.sum(axis=1) % 2 == 0), -np.log(32.0), -np.inf)


@dataclass(frozen=True, kw_only=True)
class Pinwheel(Toy):
    """Five Gaussian blades, twisted more the farther out, after Johnson et al. (2016).

    x = R(exp(|y| / 2) / 4) y with y from a mixture of five Gaussians N(2, 1/4) x N(0, 1/25),
    turned by multiples of 72 degrees. A turn by an angle that depends on the radius alone keeps
    areas, so p(x) is the mixture's density at y = R(-exp(|x| / 2) / 4) x.
    Johnson, Duvenaud, Wiltschko, Datta & Adams (2016), https://arxiv.org/abs/1603.06277.
    """

    name: str = "pinwheel"
    title: str = "Pinwheel"

    N_BLADES: ClassVar[int] = 5
    MEAN: ClassVar[np.ndarray] = np.array([2.0, 0.0])
    STD: ClassVar[np.ndarray] = np.array([0.5, 0.2])

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Independent draws, (n, 2) float64: points y of the mixture, twisted."""
        blade = rng.integers(self.N_BLADES, size=n)
        y = self.MEAN + self.STD * rng.standard_normal((n, 2))
        return turn(y, 2 * np.pi * blade / self.N_BLADES + _twist(y))

    def density(self, x: np.ndarray) -> np.ndarray:
        """The log-density of the mixture at x untwisted, x (n, 2) float64 -> (n,), in nats."""
        y = turn(x, -_twist(x))
        turns = 2 * np.pi * np.arange(self.N_BLADES) / self.N_BLADES
        blades = np.stack([(turn(y, -angle) - self.MEAN) / self.STD for angle in turns])
        mixture: np.ndarray = np.logaddexp.reduce(-0.5 * (blades**2).sum(axis=-1), axis=0)
        return mixture - np.log(self.N_BLADES * 2 * np.pi * self.STD.prod())


def turn(x: np.ndarray, angle: np.ndarray | float) -> np.ndarray:
    """Points (n, 2) turned about the origin by `angle`, (n,) or one for all, in radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([cos * x[:, 0] - sin * x[:, 1], sin * x[:, 0] + cos * x[:, 1]], axis=1)


def _twist(x: np.ndarray) -> np.ndarray:
    radius: np.ndarray = np.hypot(x[:, 0], x[:, 1])
    return np.exp(radius / 2) / 4
