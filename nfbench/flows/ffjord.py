"""FFJORD (Grathwohl et al. 2018): continuous flows of free form, for vectors and images."""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any, Literal

from nfbench.distributions.base import StandardNormal
from nfbench.nets.amortized import Amortized
from nfbench.nets.conv_field import ConvField
from nfbench.nets.field import Field
from nfbench.nets.low_rank_field import LowRankField
from nfbench.nets.mlp import MLP
from nfbench.nets.mlp_field import MLPField
from nfbench.transforms.base import Compose, Transform
from nfbench.transforms.contextual import Contextual
from nfbench.transforms.coupling import Coupling
from nfbench.transforms.elementwise import Affine
from nfbench.transforms.multiscale import MultiScale, Split
from nfbench.transforms.normalize import BatchNorm
from nfbench.transforms.ode import ODE
from nfbench.transforms.squeeze import Squeeze

from .flow import Flow
from .mixing import halves, image_shape
from .recipe import recipe

SMALLEST = 4  # side of images that have a scale of their own


@recipe
def ffjord(
    event_shape: Sequence[int],
    *,
    context_features: int = 0,
    blocks: int = 1,
    hidden: Sequence[int] = (64, 64, 64),
    layer: str = "concatsquash",
    activation: str = "tanh",
    amortized_rank: int = 0,
    batch_norm: bool = False,
    couplings: int = 0,
    T: float = 1.0,  # noqa: N803
    train_T: bool = True,  # noqa: N803
    solver: str = "dopri5",
    atol: float = 1e-5,
    rtol: float = 1e-5,
    norm: Literal["rms", "max"] = "rms",
    step_size: float | None = None,
    gradient: Literal["adjoint", "autograd", "replay"] = "adjoint",
    adjoint_atol: float | None = None,
    adjoint_rtol: float | None = None,
    trace: Literal["hutchinson", "exact"] = "hutchinson",
    noise: Literal["gaussian", "rademacher"] = "gaussian",
    probes: int = 1,
    exact_dims: int = 100,
    max_evaluations: int = 10_000,
    regularize: Sequence[str] = (),
) -> Flow:
    """FFJORD for vectors: ``blocks`` ODEs one after another, each of a network of its own.

    ``batch_norm`` puts a batch norm before the first and after each. All else is of ``MLPField``
    and ``ODE``; defaults are of the authors' code for two dimensions, whose T is 0.5. A context
    adds to the biases, with ``amortized_rank`` a matrix of that rank to each weight (section 4.2).
    ``couplings`` puts so many affine ones after each ODE, of either half of dimensions in turn.
    """
    features = prod(event_shape)
    ode = partial(
        ODE,
        T=T,
        train_T=train_T,
        solver=solver,
        atol=atol,
        rtol=rtol,
        norm=norm,
        step_size=step_size,
        gradient=gradient,
        adjoint_atol=adjoint_atol,
        adjoint_rtol=adjoint_rtol,
        trace=trace,
        noise=noise,
        probes=probes,
        exact_dims=exact_dims,
        max_evaluations=max_evaluations,
        regularize=regularize,
    )
    net: dict[str, Any] = {"activation": activation, "context_features": context_features}
    fields = partial(block, features, ode, hidden=hidden, layer=layer, rank=amortized_rank, **net)
    between = partial(affine_coupling, features, hidden=hidden, **net)
    around = partial(BatchNorm, features) if batch_norm else None
    return Flow(StandardNormal([features]), in_turn(fields, between, around, blocks, couplings))


def in_turn(
    ode: Callable[[], Transform],
    coupling: Callable[..., Transform],
    norm: Callable[[], Transform] | None,
    blocks: int,
    couplings: int,
) -> Compose:
    """So many ODEs, each with couplings of either half in turn after it and a norm around both."""
    parts = [norm()] if norm else []
    for index in range(blocks):
        parts.append(ode())
        numbers = range(index * couplings, (index + 1) * couplings)
        parts += [coupling(swap=n % 2 == 1) for n in numbers]
        parts += [norm()] if norm else []
    return Compose(parts)


def block(
    features: int,
    ode: Callable[[Field], ODE],
    *,
    hidden: Sequence[int],
    layer: str,
    activation: str,
    rank: int,
    context_features: int,
) -> Transform:
    """An ODE with a network whose biases, or with a rank all of whose numbers, see the context.

    Raises:
        ValueError: if there is a rank without a context.
    """
    if not rank:
        return ode(
            MLPField(
                features,
                hidden=hidden,
                layer=layer,
                activation=activation,
                context_features=context_features,
            )
        )
    if not context_features:
        raise ValueError(
            f"amortized_rank: expected 0 without a context that weights depend on, got {rank}"
        )
    field = LowRankField(features, hidden=hidden, rank=rank, layer=layer, activation=activation)
    numbers = Amortized(field.initial(), context_features=context_features)
    return Contextual(ode(field), numbers)


def affine_coupling(features: int, *, swap: bool, **net: Any) -> Coupling:
    """A coupling that maps the second half of the dimensions, or the first, and starts near 1.

    Raises:
        ValueError: if there are not two dimensions to split in halves.
    """
    n_first, n_second = halves("ffjord, couplings", features)
    fixed, mapped = (n_second, n_first) if swap else (n_first, n_second)
    conditioner = MLP(fixed, mapped, n_parameters=2, init="near_zero", **net)
    return Coupling(conditioner, Affine(scale="tanh"), n_first=n_first, swap=swap)


@recipe
def ffjord_image(
    event_shape: Sequence[int],
    *,
    context_features: int = 0,
    scales: int | None = None,
    blocks: int = 2,
    hidden: Sequence[int] = (64, 64, 64),
    activation: str = "softplus",
    T: float = 1.0,  # noqa: N803
    train_T: bool = True,  # noqa: N803
    solver: str = "dopri5",
    atol: float = 1e-5,
    rtol: float = 1e-5,
    norm: Literal["rms", "max"] = "rms",
    step_size: float | None = None,
    gradient: Literal["adjoint", "autograd", "replay"] = "adjoint",
    adjoint_atol: float | None = None,
    adjoint_rtol: float | None = None,
    trace: Literal["hutchinson", "exact"] = "hutchinson",
    noise: Literal["gaussian", "rademacher"] = "rademacher",
    probes: int = 1,
    max_evaluations: int = 10_000,
    regularize: Sequence[str] = (),
) -> Flow:
    """FFJORD for images, in several scales as in the authors' code.

    A scale is ``blocks`` ODEs, a squeeze, and as many ODEs again, after which half of the channels
    leave; the last is ``blocks`` ODEs alone. There are ``scales`` of them; if None, one for each
    time that the sides, halved and rounded down, are at least 4. With ``scales=1`` it is a chain
    of ODEs of whole images. The log-determinant is an estimate unless the trace is exact.

    Raises:
        ValueError: if the events are no images whose sides can be halved so often.
    """
    ode = partial(
        ODE,
        T=T,
        train_T=train_T,
        solver=solver,
        atol=atol,
        rtol=rtol,
        norm=norm,
        step_size=step_size,
        gradient=gradient,
        adjoint_atol=adjoint_atol,
        adjoint_rtol=adjoint_rtol,
        trace=trace,
        noise=noise,
        probes=probes,
        max_evaluations=max_evaluations,
        regularize=regularize,
    )
    net = partial(
        ConvField, hidden=hidden, activation=activation, context_features=context_features
    )

    def odes(channels: int) -> list[Transform]:
        return [ode(net(channels)) for _ in range(blocks)]

    return Flow(StandardNormal([prod(event_shape)]), in_scales(event_shape, scales, odes))


def in_scales(
    event_shape: Sequence[int], scales: int | None, odes: Callable[[int], list[Transform]]
) -> MultiScale:
    """The scales of ``ffjord_image``, of the ODEs of images of so many channels."""
    channels, height, width = image_shape("ffjord_image", event_shape, 1)
    n_scales = count_scales(height, width) if scales is None else scales
    if n_scales < 1:
        raise ValueError(
            f"ffjord_image: expected a scale or more, which are chosen for sides of {SMALLEST} or "
            f"more; got scales={scales} for images of {height} x {width} pixels"
        )
    image_shape("ffjord_image", event_shape, 2 ** (n_scales - 1))
    levels, shapes = [], []
    for scale in range(n_scales):
        parts = odes(channels)
        if scale < n_scales - 1:
            channels, height, width = 4 * channels, height // 2, width // 2
            parts += [Squeeze(), *odes(channels)]
        levels.append(Compose(parts))
        shapes.append((channels, height, width))
        channels //= 2
    return MultiScale(levels, shapes, [Split() for _ in levels[1:]])


def count_scales(height: int, width: int) -> int:
    """How often the sides can be halved and rounded down before one is less than 4."""
    n_scales = 0
    while min(height, width) >= SMALLEST:
        n_scales, height, width = n_scales + 1, height // 2, width // 2
    return n_scales
