"""Planar and radial flows (Rezende & Mohamed 2015)."""

from collections.abc import Sequence
from math import prod
from typing import Literal

from nfbench.distributions.base import StandardNormal
from nfbench.transforms.base import Transform
from nfbench.transforms.inverse import Inverse
from nfbench.transforms.planar import Planar
from nfbench.transforms.radial import Radial

from .flow import Flow
from .recipe import recipe


@recipe
def planar(
    event_shape: Sequence[int],
    *,
    context_features: int = 0,
    layers: int = 32,
    fast: Literal["density", "sampling"] = "density",
) -> Flow:
    """Planar flow (K): ``layers`` planar maps, in closed form from data to noise.

    With ``fast="sampling"`` they are in closed form from noise to data, as in the paper; the
    other direction solves a scalar equation for each layer.
    """
    features = prod(event_shape)
    transform = Planar(features, layers=layers, context_features=context_features)
    return Flow(StandardNormal([features]), facing(transform, fast))


@recipe
def radial(
    event_shape: Sequence[int],
    *,
    context_features: int = 0,
    layers: int = 32,
    fast: Literal["density", "sampling"] = "density",
) -> Flow:
    """Radial flow (K): ``layers`` radial maps, applied from data to noise.

    With ``fast="sampling"`` they are applied from noise to data, as in the paper. Both
    directions are in closed form.
    """
    features = prod(event_shape)
    transform = Radial(features, layers=layers, context_features=context_features)
    return Flow(StandardNormal([features]), facing(transform, fast))


def facing(transform: Transform, fast: Literal["density", "sampling"]) -> Transform:
    """The transform as it is for a fast density, its inverse for fast samples."""
    return transform if fast == "density" else Inverse(transform)
