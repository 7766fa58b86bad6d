"""Neural spline flows (Durkan et al. 2019)."""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any, Literal

from nfbench.distributions.base import StandardNormal
from nfbench.nets.made import MADE
from nfbench.nets.mlp import MLP
from nfbench.transforms.autoregressive import Autoregressive
from nfbench.transforms.base import Compose, Transform
from nfbench.transforms.coupling import Coupling, Unconditional
from nfbench.transforms.elementwise import Affine, Elementwise
from nfbench.transforms.spline import RationalQuadratic

from .flow import Flow
from .mixing import halves, mix


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
    if kind not in ("coupling", "autoregressive"):
        raise ValueError(f"kind: expected one of coupling, autoregressive; got {kind!r}")
    features = prod(event_shape)
    spline = partial(RationalQuadratic, bins=bins, tail_bound=tail_bound)
    # In the authors' code the couplings' widths and heights are divided by this, the others' not.
    temperature = hidden**0.5 if kind == "coupling" else 1.0
    maps: dict[str, Elementwise] = {
        "rational_quadratic": spline(temperature=temperature),
        "affine": Affine(scale=scale),
    }
    if elementwise not in maps:
        raise ValueError(f"elementwise: expected one of {', '.join(maps)}; got {elementwise!r}")
    inner = maps[elementwise]
    free = spline if unconditional and elementwise == "rational_quadratic" else None
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
