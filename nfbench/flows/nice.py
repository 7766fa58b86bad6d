"""NICE (Dinh et al. 2014), also with the mixings of Rezende & Mohamed (2015)."""

from collections.abc import Sequence
from math import prod
from typing import Literal

from nfbench.distributions.base import Distribution, StandardNormal
from nfbench.distributions.logistic import Logistic
from nfbench.nets.mlp import MLP
from nfbench.transforms.base import Compose, Transform
from nfbench.transforms.coupling import Coupling
from nfbench.transforms.elementwise import Additive
from nfbench.transforms.permute import Permute, alternate
from nfbench.transforms.scaling import DiagonalScaling

from .flow import Flow
from .mixing import halves, mix
from .recipe import recipe

PRIORS: dict[str, type[Distribution]] = {"logistic": Logistic, "gaussian": StandardNormal}


@recipe
def nice(
    event_shape: Sequence[int],
    *,
    context_features: int = 0,
    couplings: int = 4,
    hidden: Sequence[int] = (1000, 1000, 1000, 1000, 1000),
    activation: str = "relu",
    prior: Literal["logistic", "gaussian"] = "logistic",
    mixing: Literal["none", "orthogonal", "permutation"] = "none",
    init: str = "paper",
) -> Flow:
    """NICE: additive couplings over even and odd dimensions, the halves swapped at each.

    A diagonal scaling ends it. ``mixing`` puts a fixed random rotation or permutation before each
    coupling instead of the split by parity. The default sizes are the paper's for MNIST.
    """
    features = prod(event_shape)
    n_first, n_second = halves("nice", features)
    parts: list[Transform] = [Permute(alternate(features))]
    for layer in range(couplings):
        swap = layer % 2 == 1
        fixed, mapped = (n_second, n_first) if swap else (n_first, n_second)
        net = MLP(
            fixed,
            mapped,
            hidden=hidden,
            activation=activation,
            context_features=context_features,
            init=init,
        )
        parts += mix(mixing, features)
        parts.append(Coupling(net, Additive(), n_first=n_first, swap=swap))
    parts.append(DiagonalScaling(features))
    return Flow(PRIORS[prior]([features]), Compose(parts))
