"""Sylvester flows (van den Berg et al. 2018)."""

from collections.abc import Sequence
from math import prod
from typing import Literal

from nfbench.distributions.base import StandardNormal
from nfbench.transforms.sylvester import Sylvester

from .flow import Flow
from .recipe import recipe
from .rezende2015 import facing


@recipe
def sylvester(
    event_shape: Sequence[int],
    *,
    context_features: int = 0,
    layers: int = 4,
    kind: str = "orthogonal",
    columns: int | None = None,
    reflections: int = 8,
    fast: Literal["density", "sampling"] = "density",
) -> Flow:
    """Sylvester flow (K): ``layers`` Sylvester maps, in closed form from data to noise.

    ``kind`` is ``orthogonal`` (O-SNF, with ``columns`` orthonormal columns; null: as many as
    dimensions), ``householder`` (H-SNF, with ``reflections``) or ``triangular`` (T-SNF). With
    ``fast="sampling"`` they are in closed form from noise to data, as in the paper.
    """
    features = prod(event_shape)
    transform = Sylvester(
        features,
        layers=layers,
        kind=kind,
        columns=columns,
        reflections=reflections,
        context_features=context_features,
    )
    return Flow(StandardNormal([features]), facing(transform, fast))
