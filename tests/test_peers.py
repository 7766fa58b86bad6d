"""Parity with other libraries, given the same networks: densities and samples from the same noise.

Collected where the optional dependencies ``peers`` are installed (see conftest.py), as in
continuous integration. What is compared is the transform, its inverse and its log-determinant.
"""

from collections.abc import Callable

import nflows.nn.nets
import nflows.transforms
import normflows
import pyro.distributions.transforms
import pytest
import torch
import zuko.transforms
from conversions import (
    BOUND,
    FACTORS,
    D,
    Flipped,
    OnMasked,
    PyroNet,
    Restated,
    inverse_softplus,
    nflows_act_norm,
    nflows_additive_coupling,
    nflows_autoregressive,
    nflows_batch_norm,
    nflows_coupling,
    nflows_lu,
    nflows_spline,
    zuko_affine,
)
from nflows.nn.nde.made import MixtureOfGaussiansMADE
from oracles import randomize
from torch import Tensor, nn

from nfbench.flows import FLOWS
from nfbench.flows.flow import Flow
from nfbench.nets.made import MADE
from nfbench.nets.mlp import MLP
from nfbench.transforms.actnorm import ActNorm
from nfbench.transforms.autoregressive import Autoregressive
from nfbench.transforms.base import Compose, Transform
from nfbench.transforms.coupling import Coupling
from nfbench.transforms.elementwise import SCALES, Affine
from nfbench.transforms.inverse import Inverse
from nfbench.transforms.lu import LULinear
from nfbench.transforms.normalize import BatchNorm
from nfbench.transforms.permute import Permute
from nfbench.transforms.spline import SLOPE_SHIFT, RationalQuadratic

pytestmark = pytest.mark.usefixtures("float64")

N = 16
TOLERANCE = 1e-10
EVERY_SCALE = pytest.mark.parametrize("scale", SCALES)


def same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=TOLERANCE, atol=TOLERANCE)


def agree(ours: Transform, forward: Callable, inverse: Callable) -> None:
    """Both directions and their log-determinants, from the same data and the same noise."""
    x, z = torch.randn(2, N, D)
    for mine, theirs, start in ((ours, forward, x), (ours.inverse, inverse, z)):
        for actual, expected in zip(mine(start), theirs(start), strict=True):
            same(actual, expected)


def autoregressive(scale: str, *, reverse: bool = False) -> Autoregressive:
    transform = Autoregressive(
        MADE(D, hidden=(32, 32), reverse=reverse), Affine(scale=scale, bound=BOUND)
    )
    randomize(transform, spread=0.5)
    return transform


def realnvp(scale: str, layers: int, *, batch_norm: bool = False) -> Flow:
    flow = FLOWS["realnvp"](
        [D], layers=layers, hidden=(16,), scale=scale, scale_bound=BOUND, batch_norm=batch_norm
    )
    return calibrated(flow)


def composed(ours: Compose, convert: dict[type, Callable]) -> nn.Module:
    """The same parts of nflows; ``convert`` says what those with a network become."""
    convert = convert | {
        ActNorm: nflows_act_norm,
        BatchNorm: nflows_batch_norm,
        LULinear: nflows_lu,
        Permute: lambda part: nflows.transforms.Permutation(part.order),
    }
    return nflows.transforms.CompositeTransform([convert[type(part)](part) for part in ours.parts])


def calibrated(flow: Flow) -> Flow:
    randomize(flow, spread=0.5)
    flow.eval().calibrate(torch.randn(200, D).cumsum(1))
    return flow


@EVERY_SCALE
@pytest.mark.parametrize("reverse", [False, True])
def test_autoregressive_agrees_with_nflows(scale: str, reverse: bool) -> None:
    ours = autoregressive(scale, reverse=reverse)
    peer = nflows_autoregressive(ours)
    agree(ours, peer.forward, peer.inverse)


def test_maf_with_batch_norm_agrees_with_nflows() -> None:
    flow = calibrated(FLOWS["maf"]([D], layers=4, hidden=(16, 16)))
    assert len(flow.transform.parts) == 8
    peer = composed(flow.transform, {Autoregressive: nflows_autoregressive})
    agree(flow.transform, peer.forward, peer.inverse)
    x = torch.randn(N, D)
    z, log_det = peer(x)
    same(flow.log_prob(x), torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1) + log_det)


def test_reversed_degrees_are_the_same_as_reversed_dimensions() -> None:
    """We turn degrees round, nflows the dimensions themselves, between layers."""
    flow = calibrated(FLOWS["maf"]([D], layers=4, hidden=(16, 16), batch_norm=False))
    parts: list[nn.Module] = []
    for layer, ours in enumerate(flow.transform.parts):
        peer = nflows_autoregressive(ours)
        if layer % 2:
            peer.autoregressive_net.net = Flipped(ours.made)
        parts += [peer, nflows.transforms.ReversePermutation(D)]
    peer = nflows.transforms.CompositeTransform(parts)
    agree(flow.transform, peer.forward, peer.inverse)


def test_realnvp_with_batch_norm_agrees_with_nflows() -> None:
    flow = realnvp("sigmoid", 4, batch_norm=True)
    peer = composed(flow.transform, {Coupling: nflows_coupling})
    agree(flow.transform, peer.forward, peer.inverse)


def test_glow_agrees_with_nflows() -> None:
    flow = calibrated(FLOWS["glow"]([D], layers=4, hidden=(16,)))
    assert len(flow.transform.parts) == 16
    peer = composed(flow.transform, {Coupling: nflows_coupling})
    agree(flow.transform, peer.forward, peer.inverse)


def test_nice_agrees_with_nflows() -> None:
    flow = calibrated(FLOWS["nice"]([D], couplings=3, hidden=(16,)))
    permute, *couplings, scaling = flow.transform.parts
    first = nflows.transforms.Permutation(permute.order)
    factors = scaling.log_scale.exp().detach()
    last = nflows.transforms.PointwiseAffineTransform(scale=factors)
    peer = nflows.transforms.CompositeTransform(
        [first, *map(nflows_additive_coupling, couplings), last]
    )
    agree(flow.transform, peer.forward, peer.inverse)


@pytest.mark.parametrize("name", ["made_mog", "maf_mog"])
def test_mixture_base_agrees_with_nflows(name: str) -> None:
    base = FLOWS[name]([D], components=3, hidden=(16,)).base
    randomize(base)

    def parameters(z: Tensor, context: Tensor | None = None) -> Tensor:
        logits, means, log_precisions = base.made(z, context).unflatten(0, (3, 3)).movedim(1, -1)
        std = inverse_softplus(torch.exp(-0.5 * log_precisions) - peer.epsilon)
        return torch.stack([logits, means, std], dim=-1).flatten(1)  # (B, D * K * 3)

    peer = MixtureOfGaussiansMADE(D, 4, num_mixture_components=3, custom_initialization=False)
    peer.forward = parameters
    z = torch.randn(N, D)
    same(base.log_prob(z), peer.log_prob(z))


def ways(peer: zuko.transforms.Transform) -> tuple[Callable, Callable]:
    return peer.call_and_ladj, peer.inv.call_and_ladj


@EVERY_SCALE
@pytest.mark.parametrize("reverse", [False, True])
def test_autoregressive_agrees_with_zuko(scale: str, reverse: bool) -> None:
    ours = autoregressive(scale, reverse=reverse)
    peer = zuko.transforms.AutoregressiveTransform(
        Restated(ours.made, scale, zuko_affine), passes=D
    )
    agree(ours, *ways(peer))


@EVERY_SCALE
def test_realnvp_agrees_with_zuko(scale: str) -> None:
    """Over even and odd dimensions themselves, where ours sorts them first."""
    flow = realnvp(scale, 4)
    permute, *couplings = flow.transform.parts
    even = torch.arange(D) % 2 == 0
    peer = zuko.transforms.ComposedTransform(
        *(
            zuko.transforms.CouplingTransform(
                Restated(ours.conditioner, scale, zuko_affine), ~even if layer % 2 else even
            )
            for layer, ours in enumerate(couplings)
        )
    )
    x, z = torch.randn(2, N, D)
    forward, inverse = ways(peer)
    (noise, log_det), (expected_noise, expected_log_det) = flow.transform(x), forward(x)
    same(noise, permute(expected_noise)[0])
    same(log_det, expected_log_det)
    for actual, expected in zip(flow.transform.inverse(permute(z)[0]), inverse(z), strict=True):
        same(actual, expected)


@EVERY_SCALE
def test_realnvp_agrees_with_normflows(scale: str) -> None:
    flow = realnvp(scale, 4)
    permute, *couplings = flow.transform.parts

    def convert(ours: Coupling) -> nn.Module:
        kept = ((torch.arange(D) < ours.n_first) != ours.swap).double()
        negative = OnMasked(ours, lambda shift, a: -FACTORS[scale](a).log())
        return normflows.flows.MaskedAffineFlow(
            kept, OnMasked(ours, lambda shift, a: shift), negative
        )

    peer = normflows.NormalizingFlow(
        normflows.distributions.DiagGaussian(D, trainable=False),
        [convert(ours) for ours in reversed(couplings)],
    )
    agree(Compose(couplings), peer.inverse_and_log_det, peer.forward_and_log_det)
    x = torch.randn(N, D)
    same(flow.log_prob(x), peer.log_prob(permute(x)[0]))


def test_inverse_autoregressive_agrees_with_normflows() -> None:
    """Its MAF conditions on noise: factor = sigmoid(first + 2) + 1e-3, x = factor z + second."""
    inner = autoregressive("sigmoid")

    def parameters(shift: Tensor, factor: Tensor) -> Tensor:
        return torch.stack([torch.logit(factor - 1e-3) - 2, -shift * factor], dim=-1).flatten(1)

    peer = normflows.flows.MaskedAffineAutoregressive(D, hidden_features=4)
    peer.autoregressive_net = Restated(inner.made, "sigmoid", parameters)
    agree(Inverse(inner), peer.inverse, peer.forward)


@EVERY_SCALE
@pytest.mark.parametrize("reverse", [False, True])
def test_inverse_autoregressive_agrees_with_pyro(scale: str, reverse: bool) -> None:
    inner = autoregressive(scale, reverse=reverse)
    peer = pyro.distributions.transforms.AffineAutoregressive(
        PyroNet(inner), log_scale_min_clip=-50.0, log_scale_max_clip=50.0
    )

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        z = peer.inv(x)
        return z, -peer.log_abs_det_jacobian(z, x)

    def inverse(z: Tensor) -> tuple[Tensor, Tensor]:
        x = peer(z)
        return x, peer.log_abs_det_jacobian(z, x)

    agree(Inverse(inner), forward, inverse)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("bins", [2, 8, 30])
def test_spline_agrees_with_nflows(bins: int, inverse: bool) -> None:
    """Inside and in the tails; its slopes are not shifted to 1."""
    x, parameters = torch.randn(5000) * 2, torch.randn(3 * bins - 1, 5000)
    ours = RationalQuadratic(bins=bins, tail_bound=2.5)
    widths, heights, slopes = parameters.t().split([bins, bins, bins - 1], dim=1)
    peer = nflows.transforms.splines.unconstrained_rational_quadratic_spline(
        x, widths, heights, slopes + SLOPE_SHIFT, inverse=inverse, tail_bound=2.5
    )
    mine = ours.inverse(x, parameters) if inverse else ours(x, parameters)
    for actual, expected in zip(mine, peer, strict=True):
        same(actual, expected)


@pytest.mark.parametrize("kind", ["coupling", "autoregressive"])
def test_neural_spline_flow_agrees_with_nflows(kind: str) -> None:
    free = kind == "coupling"
    flow = FLOWS["nsf"]([D], kind=kind, layers=3, hidden=16, blocks=1, unconditional=free)
    randomize(flow, spread=0.5)
    assert len(flow.transform.parts) == 11
    peer = composed(flow.transform, {Coupling: nflows_spline, Autoregressive: nflows_spline})
    agree(flow.transform, peer.forward, peer.inverse)


def test_residual_network_agrees_with_nflows() -> None:
    ours = MLP(D, 3, hidden=(16,) * 5, residual=True)
    randomize(ours)
    peer = nflows.nn.nets.ResidualNet(D, 3, hidden_features=16, num_blocks=2)
    blocks = [layer for block in peer.blocks for layer in block.linear_layers]
    layers = [peer.initial_layer, *blocks, peer.final_layer]
    for layer, weight, bias in zip(layers, ours.weights, ours.biases, strict=True):
        layer.weight, layer.bias = weight, bias
    x = torch.randn(N, D)
    same(ours(x)[0], peer(x))


def test_the_sylvester_map_of_pyro_is_no_oracle() -> None:
    """It multiplies rows where the formula has columns: its log-det is not that of its map.

    The day that this fails, compare ours with it.
    """
    peer = pyro.distributions.transforms.Sylvester(3, count_transforms=2)
    randomize(peer)
    x = torch.randn(3)
    told = peer.log_abs_det_jacobian(x, peer._call(x))
    jacobian = torch.autograd.functional.jacobian(peer._call, x)
    assert (torch.linalg.slogdet(jacobian).logabsdet - told).abs() > 1e-3


def test_a_difference_of_a_hundred_millionth_is_noticed() -> None:
    ours = autoregressive("exp")
    peer = nflows_autoregressive(ours)
    with pytest.raises(AssertionError):
        agree(ours, lambda x: (peer(x)[0], peer(x)[1] + 1e-8), peer.inverse)
