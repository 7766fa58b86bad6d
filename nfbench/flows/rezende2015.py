"""Planar and radial flows (Rezende & Mohamed 2015)."""

from collections.abc import Sequence
from math import prod

from nfbench.distributions.base import StandardNormal
from nfbench.transforms.base import Transform
from nfbench.transforms.inverse import Inverse
from nfbench.transforms.planar import Planar
from nfbench.transforms.radial import Radial

from .flow import Flow


def planar(
    event_shape: Sequence[int],
    *,
    context_features: int = 0,
    layers: int = 32,
    fast: str = "density",
) -> Flow:
    """Planar flow (K): ``layers`` planar maps, in closed form from data to noise.

    With ``fast="sampling"`` they are in closed form from noise to data, as in the paper; the
    other direction solves a scalar equation for each layer.
    """
    features = prod(event_shape)
    transform = Planar(features, layers=layers, context_features=context_features)
    return Flow(StandardNormal([features]), facing(transform, fast))


def radial(
    event_shape: Sequence[int],
    *,
    context_features: int = 0,
    layers: int = 32,
    fast: str = "density",
) -> Flow:
    """Radial flow (K): ``layers`` radial maps, applied from data to noise.

    With ``fast="sampling"`` they are applied from noise to data, as in the paper. Both
    directions are in closed form.
    """
    features = prod(event_shape)
    transform = Radial(features, layers=layers, context_features=context_features)
    return Flow(StandardNormal([features]), facing(transform, fast))


def facing(transform: Transform, fast: str) -> Transform:
    """The transform as it is for a fast density, its inverse for fast samples.

    Raises:
        ValueError: if ``fast`` is neither ``density`` nor ``sampling``.
    """
    if fast not in ("density", "sampling"):
        raise ValueError(f"fast: expected density or sampling, got {fast!r}")
    return transform if fast == "density" else Inverse(transform)
