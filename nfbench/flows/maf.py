"""Masked autoregressive flow, MADE, MADE MoG and MAF MoG (Papamakarios et al. 2017)."""

from collections.abc import Sequence
from math import prod
from typing import Any, Literal

from nfbench.distributions.base import StandardNormal
from nfbench.distributions.made_mog import AutoregressiveMixture
from nfbench.nets.made import MADE
from nfbench.transforms.autoregressive import Autoregressive
from nfbench.transforms.base import Compose, Transform
from nfbench.transforms.elementwise import Affine, Elementwise
from nfbench.transforms.normalize import BatchNorm

from .flow import Flow
from .recipe import recipe


@recipe
def maf(
    event_shape: Sequence[int],
    *,
    context_features: int = 0,
    layers: int = 5,
    hidden: Sequence[int] = (100, 100),
    activation: str = "relu",
    batch_norm: bool = True,
    scale: str = "log_precision",
    scale_bound: float = 5.0,
    init: str = "paper",
) -> Flow:
    """MAF (K): ``layers`` affine MADEs, the inputs' order reversed at each, with batch norm.

    ``scale`` names a map of ``Affine``; the default, half an unbounded log-precision, is the
    paper's.
    """
    features = prod(event_shape)
    transform = masked_layers(
        features,
        Affine(scale=scale, bound=scale_bound),
        layers=layers,
        hidden=hidden,
        activation=activation,
        batch_norm=batch_norm,
        context_features=context_features,
        init=init,
    )
    return Flow(StandardNormal([features]), transform)


def masked_layers(
    features: int,
    elementwise: Elementwise,
    *,
    layers: int,
    hidden: Sequence[int],
    activation: str,
    batch_norm: bool,
    context_features: int,
    init: str,
) -> Compose:
    """The layers of ``maf``: MADEs for one map, the inputs' order reversed at each."""
    parts: list[Transform] = []
    for layer in range(layers):
        made = MADE(
            features,
            n_parameters=elementwise.n_parameters,
            hidden=hidden,
            activation=activation,
            reverse=layer % 2 == 1,
            context_features=context_features,
            init=init,
        )
        parts.append(Autoregressive(made, elementwise))
        if batch_norm:
            parts.append(BatchNorm(features))
    return Compose(parts)


@recipe
def made(
    event_shape: Sequence[int],
    *,
    context_features: int = 0,
    hidden: Sequence[int] = (100, 100),
    activation: str = "relu",
    scale: str = "log_precision",
    scale_bound: float = 5.0,
    init: str = "paper",
) -> Flow:
    """MADE with Gaussian conditionals: a MAF of one layer, without batch norm."""
    return maf(
        event_shape,
        context_features=context_features,
        layers=1,
        hidden=hidden,
        activation=activation,
        batch_norm=False,
        scale=scale,
        scale_bound=scale_bound,
        init=init,
    )


@recipe
def maf_mog(
    event_shape: Sequence[int],
    *,
    context_features: int = 0,
    layers: int = 5,
    components: int = 10,
    hidden: Sequence[int] = (100, 100),
    activation: str = "relu",
    batch_norm: bool = True,
    scale: str = "log_precision",
    scale_bound: float = 5.0,
    init: str = "paper",
) -> Flow:
    """MAF MoG (K): ``layers`` of MAF over a base that is MADE MoG, a mixture of Gaussians.

    The base's weights start as in the paper; ``init`` is that of the layers before it.
    """
    flow = maf(
        event_shape,
        context_features=context_features,
        layers=layers,
        hidden=hidden,
        activation=activation,
        batch_norm=batch_norm,
        scale=scale,
        scale_bound=scale_bound,
        init=init,
    )
    base = mixture(
        prod(event_shape),
        components,
        hidden=hidden,
        activation=activation,
        reverse=layers % 2 == 1,
        context_features=context_features,
    )
    return Flow(base, flow.transform)


def mixture(
    features: int, components: int, *, scale: str = "log_precision", **net: Any
) -> AutoregressiveMixture:
    """The density of ``made_mog``, by a MADE."""
    made = MADE(features, n_parameters=3 * components, **net)
    return AutoregressiveMixture(made, components, scale=scale)


@recipe
def made_mog(
    event_shape: Sequence[int],
    *,
    context_features: int = 0,
    components: int = 10,
    hidden: Sequence[int] = (100, 100),
    activation: str = "relu",
    scale: Literal["log_precision", "exp"] = "log_precision",
) -> Flow:
    """MADE MoG: the autoregressive mixture of Gaussians alone.

    ``scale`` is what the nets give of each Gaussian: the paper's log-precision, or half of it.
    """
    base = mixture(
        prod(event_shape),
        components,
        scale=scale,
        hidden=hidden,
        activation=activation,
        context_features=context_features,
    )
    return Flow(base, Compose([]))
