"""Neural spline flows (Durkan et al. 2019)."""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any, Literal

from nfbench.distributions.base import StandardNormal
from nfbench.nets.bfloat16 import in_dtype
from nfbench.nets.made import MADE
from nfbench.nets.mlp import MLP
from nfbench.nets.resnet import ResNet
from nfbench.transforms.actnorm import ActNorm
from nfbench.transforms.autoregressive import Autoregressive
from nfbench.transforms.base import Compose, Transform
from nfbench.transforms.coupling import Coupling, Unconditional
from nfbench.transforms.elementwise import Affine, Elementwise
from nfbench.transforms.multiscale import MultiScale, Split
from nfbench.transforms.per_pixel import PerPixel
from nfbench.transforms.spline import RationalQuadratic
from nfbench.transforms.squeeze import Squeeze

from .flow import Flow
from .mixing import halves, image_shape, mix
from .recipe import recipe


@recipe
def nsf(
    event_shape: Sequence[int],
    *,
    context_features: int = 0,
    kind: Literal["coupling", "autoregressive"] = "coupling",
    elementwise: Literal["rational_quadratic", "affine"] = "rational_quadratic",
    layers: int = 10,
    hidden: int = 256,
    blocks: int = 2,
    activation: str = "relu",
    bins: int = 8,
    tail_bound: float = 3.0,
    unconditional: bool = False,
    scale: str = "sigmoid",
    dropout: float = 0.0,
    init: str = "paper",
) -> Flow:
    """RQ-NSF (C) or (AR): ``layers`` spline layers on residual nets, each after a linear map.

    A linear map is a random permutation and triangular factors; one more ends the flow. ``affine``
    maps in the place of splines make the paper's "Glow" (coupling) and "MAF" (autoregressive).
    If ``unconditional``, spline couplings map the half that conditions too, by splines that are
    the same for all points. Defaults are those of the authors' code (uci.py), but for its dropout
    of 0.25, its unconditional splines, and the 1e-3 that it adds to affine scales.
    """
    if unconditional and (kind, elementwise) != ("coupling", "rational_quadratic"):
        raise ValueError(
            "unconditional: expected false, as only couplings with splines map the half that "
            f"conditions; got kind={kind}, elementwise={elementwise}"
        )
    features = prod(event_shape)
    spline = partial(RationalQuadratic, bins=bins, tail_bound=tail_bound)
    # In the authors' code the couplings' widths and heights are divided by this, the others' not.
    temperature = hidden**0.5 if kind == "coupling" else 1.0
    inner = elementwise_named(elementwise, spline(temperature=temperature), scale)
    free = spline if unconditional else None
    net: dict[str, Any] = {
        "n_parameters": inner.n_parameters,
        "hidden": [hidden] * (2 * blocks + 1),
        "activation": activation,
        "residual": True,
        "dropout": dropout,
        "context_features": context_features,
        "init": init,
    }
    parts: list[Transform] = []
    for layer in range(layers):
        parts += mix("linear", features)
        if kind == "coupling":
            parts.append(couple(features, inner, free, net, swap=layer % 2 == 0))
        else:
            parts.append(Autoregressive(MADE(features, **net), inner))
    return Flow(StandardNormal([features]), Compose([*parts, *mix("linear", features)]))


@recipe
def nsf_image(
    event_shape: Sequence[int],
    *,
    context_features: int = 0,
    elementwise: Literal["rational_quadratic", "affine"] = "rational_quadratic",
    levels: int = 3,
    steps: int = 7,
    multiscale: bool = False,
    hidden: int = 96,
    blocks: int = 3,
    bins: int = 4,
    tail_bound: float = 3.0,
    scale: str = "sigmoid",
    batch_norm: bool = True,
    dropout: float = 0.2,
    net_dtype: Literal["float32", "bfloat16"] = "float32",
) -> Flow:
    """RQ-NSF (C) for images: ``levels`` of ``steps`` steps, as in the authors' code.

    A level squeezes; a step is activation norm, a linear map of the channels and a coupling of
    their halves by a residual net of ``hidden`` channels; one more linear map ends the level. If
    ``multiscale``, half of the channels then leave. A linear map is a random permutation and
    triangular factors. ``affine`` maps in the place of splines make the paper's baseline, but for
    the 1e-3 that the code adds to affine scales. Defaults are those for CIFAR-10.
    """
    channels, height, width = image_shape("nsf_image", event_shape, 2**levels)
    spline = RationalQuadratic(bins=bins, tail_bound=tail_bound, temperature=hidden**0.5)
    inner = elementwise_named(elementwise, spline, scale)
    net = partial(
        ResNet,
        n_parameters=inner.n_parameters,
        hidden=hidden,
        blocks=blocks,
        batch_norm=batch_norm,
        dropout=dropout,
        context_features=context_features,
    )
    parts, shapes = [], []
    for _ in range(levels):
        channels, height, width = 4 * channels, height // 2, width // 2
        half = channels // 2
        flow: list[Transform] = [Squeeze()]
        for _ in range(steps):
            conditioner = in_dtype(net(half, half), net_dtype)
            coupling = Coupling(conditioner, inner, n_first=half, swap=True)
            flow += [ActNorm(channels), mix_pixels(channels), coupling]
        parts.append(Compose([*flow, mix_pixels(channels)]))
        shapes.append((channels, height, width))
        channels //= 2 if multiscale else 1
    if not multiscale:
        parts, shapes = [Compose(parts)], shapes[-1:]
    splits = [Split() for _ in parts[:-1]]
    return Flow(StandardNormal([prod(event_shape)]), MultiScale(parts, shapes, splits))


def mix_pixels(channels: int) -> PerPixel:
    """A random permutation and a linear map of the channels, the same at every pixel."""
    return PerPixel(Compose(mix("linear", channels)))


def elementwise_named(
    name: Literal["rational_quadratic", "affine"], spline: RationalQuadratic, scale: str
) -> Elementwise:
    """The map inside couplings: ``spline``, or an affine one with this ``scale``."""
    return spline if name == "rational_quadratic" else Affine(scale=scale)


def couple(
    features: int,
    elementwise: Elementwise,
    free: Callable[[], Elementwise] | None,
    net: dict[str, Any],
    *,
    swap: bool,
) -> Coupling:
    """A coupling of the halves; ``free`` makes the map of the half that conditions, if any."""
    n_first, n_second = halves("nsf", features)
    fixed, mapped = (n_second, n_first) if swap else (n_first, n_second)
    unconditional = None if free is None else Unconditional(free(), fixed)
    conditioner = MLP(fixed, mapped, **net)
    return Coupling(
        conditioner, elementwise, n_first=n_first, swap=swap, unconditional=unconditional
    )
