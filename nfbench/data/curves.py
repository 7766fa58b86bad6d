"""Toys that are curves in the plane, seen through Gaussian noise."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .toys import Toy

GAUSS_ORDER = 16
CHUNK_ENTRIES = 2**16


@dataclass(frozen=True, kw_only=True)
class NoisyCurves(Toy):
    """A point on one of several curves, all as likely, plus isotropic Gaussian noise.

    p(x) = 1/B sum_b int_0^1 N(x; c_b(u), noise^2 I) du: exact samples come from c_b(u) with u
    uniform, and the integral from Gauss-Legendre quadrature on `panels` equal parts of [0, 1],
    enough that the nodes stand closer than the noise is wide.
    `curve` maps u (n,) and b (n,) to points (n, 2).
    """

    curve: Callable[[np.ndarray, np.ndarray], np.ndarray]
    n_curves: int
    noise: float
    panels: int

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Independent draws, (n, 2) float64: uniform in u on a random curve, plus noise."""
        points = self.curve(rng.random(n), rng.integers(self.n_curves, size=n))
        return points + self.noise * rng.standard_normal((n, 2))

    def density(self, x: np.ndarray) -> np.ndarray:
        """The log-density by quadrature, x (n, 2) float64 -> (n,), in nats."""
        centers, log_weights = self._nodes()
        # log N(x; c, s^2 I) = x.c / s^2 - |c|^2 / 2 s^2, and what is the same for every center c.
        slopes = (centers / self.noise**2).T  # (2, K)
        offsets = log_weights - (centers**2).sum(axis=1) / (2 * self.noise**2)  # (K,)
        common = (x**2).sum(axis=1) / (2 * self.noise**2) + np.log(2 * np.pi * self.noise**2)
        n_chunks = 1 + len(x) * len(centers) // CHUNK_ENTRIES
        chunks = np.array_split(x, n_chunks)
        return np.concatenate([log_sum_exp(chunk @ slopes + offsets) for chunk in chunks]) - common

    def _nodes(self) -> tuple[np.ndarray, np.ndarray]:
        """The curves as a mixture of K Gaussians: centers (K, 2) and log-weights (K,)."""
        node, weight = np.polynomial.legendre.leggauss(GAUSS_ORDER)
        u = (np.arange(self.panels)[:, None] + (node + 1) / 2).ravel() / self.panels
        weights = np.tile(weight / 2 / self.panels / self.n_curves, self.panels)
        branch = np.repeat(np.arange(self.n_curves), len(u))
        centers = self.curve(np.tile(u, self.n_curves), branch)
        return centers, np.log(np.tile(weights, self.n_curves))


def log_sum_exp(terms: np.ndarray) -> np.ndarray:
    """log sum_k exp(terms_k), (n, K) -> (n,); overwrites `terms`."""
    top: np.ndarray = terms.max(axis=1)
    terms -= top[:, None]
    np.exp(terms, out=terms)
    return top + np.log(terms.sum(axis=1))


def _eight_points(u: np.ndarray, branch: np.ndarray) -> np.ndarray:
    return _polar(np.full_like(u, 2.5), np.pi / 4 * branch)


def _rings(u: np.ndarray, branch: np.ndarray) -> np.ndarray:
    return _polar(0.75 * (branch + 1), 2 * np.pi * u)


def _moons(u: np.ndarray, branch: np.ndarray) -> np.ndarray:
    side = 1 - 2 * branch
    arc = _polar(np.full_like(u, 2.0), np.pi * u)
    return side[:, None] * (arc + np.array([-1.0, -0.5]))


def _spirals(u: np.ndarray, branch: np.ndarray) -> np.ndarray:
    # Points spread almost evenly along the arms: the angle grows as the root of u.
    start, end = np.pi / 2, 3 * np.pi
    angle = np.sqrt(start**2 + u * (end**2 - start**2))
    return _polar(angle / 3, angle + np.pi * branch)


def _polar(radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


EIGHT_GAUSSIANS = NoisyCurves(
    name="eight_gaussians",
    title="Eight Gaussians",
    curve=_eight_points,
    n_curves=8,
    noise=0.3,
    panels=1,
)
RINGS = NoisyCurves(name="rings", title="Rings", curve=_rings, n_curves=4, noise=0.1, panels=32)
MOONS = NoisyCurves(
    name="moons", title="Two moons", curve=_moons, n_curves=2, noise=0.2, panels=12
)
TWO_SPIRALS = NoisyCurves(
    name="two_spirals", title="Two spirals", curve=_spirals, n_curves=2, noise=0.1, panels=64
)
