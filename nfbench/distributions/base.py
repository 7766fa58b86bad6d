"""The contract of a base distribution, and the two that need no parameters."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Distribution(nn.Module, ABC):
    """A density over noise (B, *event) that can be sampled."""

    # Evaluations of networks that wait for each other, for a density and for a sample.
    passes: int = 0
    sample_passes: int = 0

    @abstractmethod
    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density of each row in nats, shape (B,)."""

    @abstractmethod
    def sample(self, n: int, context: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
        """Draw n rows (n, *event), scaled around the center by the temperature.

        Raises:
            ValueError: if the temperature is negative or not finite, or is not 1 and the density
                has no center to scale around.
        """

    @abstractmethod
    def cdf(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """``u_d = P(Z_d <= z_d | z_<d)``, of noise (B, *event): uniform where z is of the density.

        ``|det du/dz| = p(z)``, by which ``log_prob`` can be checked (Rosenblatt 1952).
        """


def scaled(noise: Tensor, temperature: float) -> Tensor:
    """``T z`` of noise z around 0: T times as wide, and for T = 0 the center itself.

    Raises:
        ValueError: if T is negative or not finite.
    """
    if not (temperature >= 0 and math.isfinite(temperature)):
        raise ValueError(
            f"temperature: expected a finite number of at least 0, got {temperature}; 1 samples "
            "the density itself"
        )
    return noise if temperature == 1 else temperature * noise


def refuse_temperature(base: Distribution, temperature: float) -> None:
    """Refuse any temperature but 1, for a density that is no noise around a center."""
    if temperature != 1:
        raise ValueError(
            f"temperature: expected 1, as {type(base).__name__} is no noise around a center that "
            f"could be scaled; got {temperature}"
        )


class Parameterless(Distribution):
    """A fixed density over an event shape; an empty buffer keeps the module's device and dtype."""

    anchor: Tensor

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.register_buffer("anchor", torch.empty(0), persistent=False)

    def check(self, z: Tensor) -> None:
        """Refuse noise of another shape, of other dimensions, and integers, whose squares wrap."""
        if not z.is_floating_point():
            raise ValueError(
                f"data: expected float32 or float64, or a flow that dequantizes, got {z.dtype}"
            )
        if z.shape[1:] != self.event_shape:
            raise ValueError(
                f"data: expected rows that become noise of shape {self.event_shape}, as the flow "
                f"was built for, got shape {tuple(z.shape[1:])}"
            )


class StandardNormal(Parameterless):
    """log p(z) = -|z|^2 / 2 - (D/2) log 2 pi."""

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density of each row in nats, shape (B,)."""
        self.check(z)
        constant = 0.5 * math.prod(self.event_shape) * math.log(2 * math.pi)
        return -0.5 * z.square().flatten(1).sum(1) - constant

    def sample(self, n: int, context: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
        """Draw n rows (n, *event) of N(0, T^2), whose density is proportional to p^(1 / T^2)."""
        like = self.anchor
        noise = torch.randn(n, *self.event_shape, dtype=like.dtype, device=like.device)
        return scaled(noise, temperature)

    def cdf(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """``Phi(z)`` of each dimension, (B, *event)."""
        return torch.special.ndtr(z)


class Uniform(Parameterless):
    """Uniform on [0, 1)^D: log p(z) = 0 inside, -inf outside."""

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density of each row in nats, shape (B,)."""
        self.check(z)
        inside = ((z >= 0) & (z < 1)).flatten(1).all(1)
        return torch.where(inside, 0.0, -math.inf).to(z.dtype)

    def sample(self, n: int, context: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
        """Draw n rows (n, *event); the temperature is 1."""
        refuse_temperature(self, temperature)
        return torch.rand(n, *self.event_shape, dtype=self.anchor.dtype, device=self.anchor.device)

    def cdf(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """``z`` cut to [0, 1], (B, *event)."""
        return z.clamp(0, 1)
