"""Real NVP (Dinh et al. 2016): for vectors as by Papamakarios et al. (2017), and for images."""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any, Literal

import torch
from torch import nn

from nfbench.distributions.base import StandardNormal
from nfbench.nets.bfloat16 import in_dtype
from nfbench.nets.mlp import MLP
from nfbench.nets.realnvp_net import RealNVPNet
from nfbench.transforms.base import Compose, Transform
from nfbench.transforms.coupling import Coupling, ShiftAndScale
from nfbench.transforms.elementwise import Affine
from nfbench.transforms.inverse import Inverse
from nfbench.transforms.masked import MaskedCoupling, checkerboard
from nfbench.transforms.multiscale import MultiScale, Split
from nfbench.transforms.normalize import BatchNorm
from nfbench.transforms.permute import Permute, alternate
from nfbench.transforms.running_norm import RunningNorm
from nfbench.transforms.squeeze import Squeeze

from .flow import Flow
from .mixing import halves, image_shape
from .recipe import recipe


@recipe
def realnvp(
    event_shape: Sequence[int],
    *,
    context_features: int = 0,
    layers: int = 10,
    hidden: Sequence[int] = (100, 100),
    scale_activation: str = "tanh",
    shift_activation: str = "relu",
    scale_net: Literal["own", "shared"] = "own",
    batch_norm: bool = True,
    scale: str = "exp",
    scale_bound: float = 5.0,
    init: str = "paper",
) -> Flow:
    """Real NVP (K): ``layers`` affine couplings of alternate dimensions, halves swapped at each.

    The scale net is tanh, the shift net relu, as in the authors' code of Papamakarios et al.
    (2017); if ``scale_net`` is shared, one net of the shift's activation gives both. The log-scale
    is linear and unbounded unless ``scale`` says otherwise.
    """
    features = prod(event_shape)
    n_even, n_odd = halves("realnvp", features)
    parts: list[Transform] = [Permute(alternate(features))]
    for layer in range(layers):
        swap = layer % 2 == 1
        fixed, mapped = (n_odd, n_even) if swap else (n_even, n_odd)
        net = partial(
            MLP, fixed, mapped, hidden=hidden, context_features=context_features, init=init
        )
        if scale_net == "shared":
            conditioner: nn.Module = net(n_parameters=2, activation=shift_activation)
        else:
            shift, raw_scale = net(activation=shift_activation), net(activation=scale_activation)
            conditioner = ShiftAndScale(shift, raw_scale)
        affine = Affine(scale=scale, bound=scale_bound)
        parts.append(Coupling(conditioner, affine, n_first=n_even, swap=swap))
        if batch_norm:
            parts.append(BatchNorm(features))
    return Flow(StandardNormal([features]), Compose(parts))


@recipe
def realnvp_image(
    event_shape: Sequence[int],
    *,
    context_features: int = 0,
    scales: int = 2,
    blocks: int = 8,
    features: int = 64,
    batch_norm: bool = True,
    net_dtype: Literal["float32", "bfloat16"] = "float32",
) -> Flow:
    """Real NVP for images: ``scales`` scales, as in the authors' code.

    A scale is three couplings of a checkerboard, three of the halves of the squeezed channels, and
    one color of a checkerboard leaves; the last one is four couplings of a checkerboard. What each
    has mapped is batch-normalized. The nets have ``blocks`` residual blocks, and ``features``
    channels, twice as many on squeezed images and in the next scale. Defaults are those of the
    paper for CIFAR-10.

    Couplings are z = (x - m) exp(s), as in the code but for the sign of m, which the nets take as
    likely in either way.
    """
    channels, height, width = image_shape("realnvp_image", event_shape, 2 ** (scales - 1))

    def nets(channels: int, **arguments: Any) -> nn.Module:
        """The net of a coupling of so many channels."""
        net = RealNVPNet(
            channels,
            blocks=blocks,
            batch_norm=batch_norm,
            context_features=context_features,
            **arguments,
        )
        return in_dtype(net, net_dtype)

    levels, shapes = [], []
    for scale in range(scales):
        last, width_of_nets = scale == scales - 1, features * 2**scale
        net = partial(nets, channels, features=width_of_nets)
        parts = color_couplings(net, 4 if last else 3, channels, (height, width), batch_norm)
        if not last:
            net = partial(nets, 2 * channels, features=2 * width_of_nets)
            couplings = channel_couplings(net, 3, 4 * channels, batch_norm)
            parts += [Squeeze(), *couplings, Inverse(Squeeze()), Squeeze("checkerboard")]
            channels, height, width = 4 * channels, height // 2, width // 2
        levels.append(Compose(parts))
        shapes.append((channels, height, width))
        channels //= 2
    splits = [Split() for _ in levels[:-1]]
    return Flow(StandardNormal([prod(event_shape)]), MultiScale(levels, shapes, splits))


def color_couplings(
    net: Callable[..., nn.Module],
    layers: int,
    channels: int,
    space: tuple[int, int],
    batch_norm: bool,
) -> list[Transform]:
    """``layers`` couplings of alternate colors of a checkerboard, all scales 1 at first."""
    parts: list[Transform] = []
    for layer in range(layers):
        swap = layer % 2 == 0
        fixed = checkerboard(space, swap=swap)
        conditioner = net(mask=fixed, rescaling=0.0)
        parts.append(MaskedCoupling(conditioner, Affine(), fixed))
        parts += [RunningNorm(channels, 1 - fixed)] if batch_norm else []
    return parts


def channel_couplings(
    net: Callable[..., nn.Module], layers: int, channels: int, batch_norm: bool
) -> list[Transform]:
    """``layers`` couplings of alternate halves of the channels."""
    is_first = torch.arange(channels).view(-1, 1, 1) < channels // 2
    parts: list[Transform] = []
    for layer in range(layers):
        swap = layer % 2 == 1
        parts.append(Coupling(net(), Affine(), n_first=channels // 2, swap=swap))
        parts += [RunningNorm(channels, is_first == swap)] if batch_norm else []
    return parts
