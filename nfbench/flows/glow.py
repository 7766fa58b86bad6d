"""Glow for vectors (Kingma & Dhariwal 2018; the tabular baseline of Grathwohl et al. 2018)."""

from collections.abc import Sequence
from math import prod
from typing import Literal

from nfbench.distributions.base import StandardNormal
from nfbench.nets.mlp import MLP
from nfbench.transforms.actnorm import ActNorm
from nfbench.transforms.base import Compose, Transform
from nfbench.transforms.coupling import Coupling
from nfbench.transforms.elementwise import Affine

from .flow import Flow
from .mixing import halves, mix


def glow(
    event_shape: Sequence[int],
    *,
    context_features: int = 0,
    layers: int = 10,
    hidden: Sequence[int] = (100, 100),
    activation: str = "tanh",
    mixing: Literal["linear", "permutation", "reverse"] = "linear",
    scale: str = "sigmoid",
    scale_bound: float = 5.0,
    init: str = "near_zero",
) -> Flow:
    """Glow (K): ``layers`` steps of activation norm, linear map and affine coupling.

    The linear map is a random permutation and triangular factors; ``mixing`` names the other two
    of the paper's ablation (figure 3). The nets' last layer starts near zero.
    """
    features = prod(event_shape)
    n_first, n_second = halves("glow", features)
    parts: list[Transform] = []
    for layer in range(layers):
        swap = layer % 2 == 1
        fixed, mapped = (n_second, n_first) if swap else (n_first, n_second)
        net = MLP(
            fixed,
            mapped,
            n_parameters=2,
            hidden=hidden,
            activation=activation,
            context_features=context_features,
            init=init,
        )
        affine = Affine(scale=scale, bound=scale_bound)
        parts += [ActNorm(features), *mix(mixing, features)]
        parts.append(Coupling(net, affine, n_first=n_first, swap=swap))
    return Flow(StandardNormal([features]), Compose(parts))
