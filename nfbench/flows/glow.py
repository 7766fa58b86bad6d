"""Glow (Kingma & Dhariwal 2018), for images and, as by Grathwohl et al. (2018), for vectors."""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Literal

from nfbench.distributions.base import StandardNormal
from nfbench.nets.bfloat16 import in_dtype
from nfbench.nets.glow_net import RATE, GlowNet, Prior
from nfbench.nets.mlp import MLP
from nfbench.transforms.actnorm import ActNorm
from nfbench.transforms.base import Compose, Transform
from nfbench.transforms.conv1x1 import NormalizedConv1x1
from nfbench.transforms.coupling import Coupling
from nfbench.transforms.elementwise import Additive, Affine
from nfbench.transforms.multiscale import MultiScale, Split
from nfbench.transforms.reversible import Reversible
from nfbench.transforms.squeeze import Squeeze
from nfbench.transforms.top_prior import TopPrior

from .flow import Flow
from .mixing import halves, image_shape, mix
from .recipe import recipe


@recipe
def glow(
    event_shape: Sequence[int],
    *,
    context_features: int = 0,
    layers: int = 10,
    hidden: Sequence[int] = (100, 100),
    activation: str = "tanh",
    mixing: Literal["linear", "lu", "permutation", "reverse"] = "linear",
    scale: str = "sigmoid",
    scale_bound: float = 5.0,
    init: str = "near_zero",
) -> Flow:
    """Glow (K): ``layers`` steps of activation norm, linear map and affine coupling.

    The linear map is a random permutation and triangular factors; with ``mixing="lu"`` it is the
    factors alone, which start as the identity: of few dimensions a random order often puts back
    those that the couplings have swapped. The other mixings are those of the paper's ablation
    (figure 3). The nets' last layer starts near zero.
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


@recipe
def glow_image(
    event_shape: Sequence[int],
    *,
    context_features: int = 0,
    levels: int = 3,
    steps: int = 32,
    hidden: int = 512,
    coupling: Literal["affine", "additive"] = "affine",
    mixing: Literal["conv1x1", "conv1x1_lu", "permutation", "reverse"] = "conv1x1",
    scale: str = "sigmoid",
    scale_bound: float = 5.0,
    split_prior: bool = True,
    top_prior: bool = True,
    normalize_nets: bool = True,
    edges: bool = True,
    net_dtype: Literal["float32", "bfloat16"] = "float32",
    reversible: bool = False,
) -> Flow:
    """Glow for images: ``levels`` (L) of ``steps`` (K) steps, as in the authors' code.

    A level squeezes; a step is activation norm, a 1x1 convolution and a coupling of the halves of
    the channels by a net of ``hidden`` channels; half of the channels leave after each level, as
    Gaussians given the rest (``split_prior``). The nets see where the edges are (``edges``) and
    are normalized as the flow is. All noise is standard normal, so that to scale it is to sample
    at a temperature. In training the nets may compute in bfloat16 (``net_dtype``), and memory
    does not grow with ``steps`` if ``reversible``.
    """
    channels, height, width = image_shape("glow_image", event_shape, 2**levels)
    net = partial(
        GlowNet,
        n_parameters=2 if coupling == "affine" else 1,
        hidden=hidden,
        normalize=normalize_nets,
        edges=edges,
        context_features=context_features,
    )
    inner = Affine(scale=scale, bound=scale_bound) if coupling == "affine" else Additive()
    chain = Reversible if reversible else Compose
    parts, shapes, splits = [], [], []
    for level in range(levels):
        channels, height, width = 4 * channels, height // 2, width // 2
        flow: list[Transform] = [Squeeze()]
        for _ in range(steps):
            flow += normalize_and_mix(mixing, channels)
            conditioner = in_dtype(net(channels // 2, channels // 2), net_dtype)
            flow.append(Coupling(conditioner, inner, n_first=channels // 2))
        is_last = level == levels - 1
        if is_last and top_prior:
            flow.append(TopPrior(channels, edges=edges, context_features=context_features))
        parts.append(chain(flow))
        shapes.append((channels, height, width))
        if not is_last:
            channels //= 2
            splits.append(Split(Prior(channels, edges=edges) if split_prior else None))
    return Flow(StandardNormal([prod(event_shape)]), MultiScale(parts, shapes, splits))


def normalize_and_mix(mixing: str, channels: int) -> list[Transform]:
    """Activation norm and a mixing of the channels; one map where that is a 1x1 convolution."""
    if mixing == "conv1x1":
        return [NormalizedConv1x1(channels, rate=RATE)]
    if mixing == "conv1x1_lu":
        return [NormalizedConv1x1(channels, factors="lu", rate=RATE)]
    return [ActNorm(channels, rate=RATE), *mix(mixing, channels)]
