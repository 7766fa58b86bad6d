"""Transforms of images, at sizes whose Jacobian a test can afford."""

import torch
from torch import Tensor, nn
from transform_case import N_CONTEXT, Case

from nfbench.nets.first_batch import FirstBatch
from nfbench.nets.glow_net import GlowNet, Prior
from nfbench.transforms.actnorm import ActNorm
from nfbench.transforms.base import Compose, Transform
from nfbench.transforms.conv1x1 import Conv1x1, NormalizedConv1x1
from nfbench.transforms.coupling import Coupling
from nfbench.transforms.elementwise import Affine
from nfbench.transforms.lu import LULinear
from nfbench.transforms.masked import MaskedCoupling, checkerboard, first_half
from nfbench.transforms.multiscale import MultiScale, Split
from nfbench.transforms.per_pixel import PerPixel
from nfbench.transforms.reversible import Reversible
from nfbench.transforms.running_norm import RunningNorm
from nfbench.transforms.squeeze import Squeeze
from nfbench.transforms.top_prior import TopPrior

SMALL = 0.1


def settled(module: Transform) -> Transform:
    """The same, as if a first batch had been seen."""
    for part in module.modules():
        if isinstance(part, FirstBatch):
            part.is_set.fill_(True)
    return module


def net(channels: int, *, context: int = 0) -> nn.Module:
    return GlowNet(channels, channels, n_parameters=2, hidden=5, context_features=context)


def coupling(channels: int, *, context: int = 0) -> Transform:
    half = channels // 2
    affine = Affine(scale="sigmoid")
    return settled(Coupling(net(half, context=context), affine, n_first=half))


def masked(*, swap: bool = False, context: int = 0) -> Transform:
    affine = Affine(scale="tanh", bound=2.0)
    fixed = checkerboard((2, 4), swap=swap)
    return settled(MaskedCoupling(net(2, context=context), affine, fixed))


def masked_channels(*, swap: bool = False) -> Transform:
    return settled(MaskedCoupling(net(4), Affine(), first_half(4, swap=swap)))


def steps(channels: int, *, kind: type[Compose] = Compose, context: int = 0) -> Transform:
    parts = [ActNorm(channels, rate=3.0), Conv1x1(channels), coupling(channels, context=context)]
    return settled(kind([*parts, Conv1x1(channels, factors="lu")]))


def multiscale(*, prior: bool, context: int = 0) -> Transform:
    first = Compose([Squeeze(), steps(4, context=context)])
    top = TopPrior(8, context_features=context)
    last = Compose([Squeeze("checkerboard"), steps(8, context=context), top])
    split = Split(Prior(2) if prior else None)
    return settled(MultiScale([first, last], [(4, 2, 4), (8, 1, 2)], [split]))


def running_norm(mapped: Tensor) -> Transform:
    norm = RunningNorm(2, mapped)
    norm.mean.normal_()
    norm.var.uniform_(0.5, 2)
    return norm


IMAGE_CASES: dict[type, list[Case]] = {
    Squeeze: [
        Case("channels", Squeeze, (4, 2, 4)),
        Case("checkerboard", lambda: Squeeze("checkerboard"), (4, 4, 2)),
    ],
    Conv1x1: [
        Case("one channel", lambda: Conv1x1(1), (1, 2, 3), disturbance=SMALL),
        Case("full", lambda: Conv1x1(4), (4, 2, 1), disturbance=SMALL),
        Case("factors", lambda: Conv1x1(4, factors="lu"), (4, 2, 1), disturbance=SMALL),
    ],
    NormalizedConv1x1: [
        Case(
            factors,
            lambda f=factors: settled(NormalizedConv1x1(3, factors=f, rate=3.0)),
            (3, 2, 2),
            disturbance=SMALL,
        )
        for factors in ("full", "lu")
    ],
    MaskedCoupling: [
        Case("odd pixels fixed", masked, (2, 2, 4), disturbance=SMALL),
        Case("swap", lambda: masked(swap=True), (2, 2, 4), disturbance=SMALL),
        Case("channels", masked_channels, (4, 2, 2), disturbance=SMALL),
        Case("other channels", lambda: masked_channels(swap=True), (4, 2, 2), disturbance=SMALL),
        Case(
            "context",
            lambda: masked(context=N_CONTEXT),
            (2, 2, 4),
            conditional=True,
            disturbance=SMALL,
        ),
    ],
    PerPixel: [Case("factors", lambda: PerPixel(LULinear(3)), (3, 2, 2))],
    RunningNorm: [
        Case("colors", lambda: running_norm(checkerboard((2, 3))), (2, 2, 3)),
        Case("channels", lambda: running_norm(torch.tensor([[[0]], [[1]]])), (2, 2, 3)),
    ],
    TopPrior: [
        Case("no context", lambda: TopPrior(2), (2, 2, 3), disturbance=SMALL),
        Case("no edges", lambda: TopPrior(2, edges=False), (2, 2, 3), disturbance=SMALL),
        Case(
            "context",
            lambda: TopPrior(2, context_features=N_CONTEXT),
            (2, 2, 3),
            conditional=True,
            disturbance=SMALL,
        ),
    ],
    Reversible: [
        Case("steps", lambda: steps(4, kind=Reversible), (4, 2, 2), disturbance=SMALL),
        Case(
            "context",
            lambda: steps(4, kind=Reversible, context=N_CONTEXT),
            (4, 2, 2),
            conditional=True,
            disturbance=SMALL,
        ),
    ],
    MultiScale: [
        Case("no prior", lambda: multiscale(prior=False), (1, 4, 8), disturbance=SMALL),
        Case("prior", lambda: multiscale(prior=True), (1, 4, 8), disturbance=SMALL),
        Case(
            "context",
            lambda: multiscale(prior=True, context=N_CONTEXT),
            (1, 4, 8),
            conditional=True,
            disturbance=SMALL,
        ),
    ],
}
