"""Parity of image transforms with nflows and normflows, given the same weights.

The peers have no edges, no learned priors of the halves that leave and no normalization in nets as
ours are by default, so that those are left out here. nflows has no full 1x1 convolution; its
triangular one has a positive diagonal, so that weights go from it to ours and not the other way,
and a bias, which is zero here. nflows' factor is sigmoid(a + 2) + 1e-3, which its net undoes.
"""

import math
from collections.abc import Callable

import nflows.transforms
import normflows
import pytest
import torch
from conversions_images import (
    disturbed,
    mix_of_nflows,
    nflows_actnorm,
    nflows_mix,
    nflows_step,
    normflows_actnorm,
    normflows_glow,
    normflows_mix,
    normflows_step,
    triples,
)
from torch import Tensor, nn

from nfbench.flows.flow import Flow
from nfbench.flows.glow import glow_image
from nfbench.transforms.actnorm import ActNorm
from nfbench.transforms.base import Compose, Transform
from nfbench.transforms.conv1x1 import Conv1x1
from nfbench.transforms.squeeze import Squeeze

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore:torch.(lu|triangular_solve) is deprecated"),
]

N, HIDDEN, LEVELS = 4, 6, 2
SHAPE = (3, 8, 8)
TOLERANCE = 1e-10
LINEAR = pytest.mark.parametrize("mixing", ["conv1x1", "conv1x1_lu"])


def same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=TOLERANCE, atol=TOLERANCE)


def agree(ours: Transform, forward: Callable, inverse: Callable, *shape: int) -> None:
    """Both directions and their log-determinants; a peer may give one number for all images."""
    x, z = torch.randn(2, N, *shape)
    for mine, theirs, start in ((ours, forward, x), (ours.inverse, inverse, z)):
        (image, log_det), (expected, expected_log_det) = mine(start), theirs(start)
        same(image, expected)
        same(log_det, torch.as_tensor(expected_log_det).expand(N))


def squeezed(peer: str) -> tuple[Callable, Callable]:
    """Data -> noise and back, as both libraries do it."""
    if peer == "nflows":
        transform = nflows.transforms.SqueezeTransform()
        return transform.forward, transform.inverse
    flow = normflows.flows.Squeeze()
    return flow.inverse, flow.forward


@pytest.mark.parametrize("peer", ["nflows", "normflows"])
def test_squeeze_is_that_of_the_peers(peer: str) -> None:
    forward, inverse = squeezed(peer)
    x, z = torch.randn(N, *SHAPE), torch.randn(N, 12, 4, 4)
    same(Squeeze()(x)[0], forward(x)[0])
    same(Squeeze().inverse(z)[0], inverse(z)[0])


@pytest.mark.parametrize("peer", ["nflows", "normflows"])
def test_checkerboard_squeeze_is_a_permutation_of_the_peers_channels(peer: str) -> None:
    """Their channel 4c + pixel is ours of (rank of the pixel, c): by pixel, diagonal first."""
    pixels, n_channels = (0, 3, 1, 2), SHAPE[0]
    order = [4 * c + pixel for pixel in pixels for c in range(n_channels)]
    x = torch.randn(N, *SHAPE)
    z = squeezed(peer)[0](x)[0][:, order]
    ours = Squeeze("checkerboard")
    same(ours(x)[0], z)
    same(ours.inverse(z)[0], x)


def mixed(channels: int, mixing: str) -> Conv1x1:
    ours = Conv1x1(channels, factors="lu" if mixing == "conv1x1_lu" else "full")
    return disturbed(ours)


@LINEAR
def test_conv1x1_agrees_with_normflows(mixing: str) -> None:
    ours = mixed(6, mixing)
    peer = normflows_mix(ours)
    agree(ours, peer.inverse, peer.forward, 6, 4, 2)


@LINEAR
def test_conv1x1_agrees_with_nflows(mixing: str) -> None:
    peer = nflows_mix(6)
    agree(mix_of_nflows(peer, mixing), peer.forward, peer.inverse, 6, 4, 2)


def normalized(channels: int) -> ActNorm:
    return disturbed(ActNorm(channels, rate=3.0)).eval()


def test_actnorm_of_images_agrees_with_both() -> None:
    ours = normalized(3)
    peer = nflows_actnorm(ours)
    agree(ours, peer.forward, peer.inverse, 3, 4, 2)
    peer = normflows_actnorm(ours)
    agree(ours, peer.inverse, peer.forward, 3, 4, 2)


def data_of_different_channels() -> Tensor:
    return torch.randn(N, 3, 4, 2) * torch.tensor([0.1, 1.0, 7.0]).view(3, 1, 1) + 5


def test_actnorm_starts_as_that_of_nflows_but_for_an_unbiased_deviation() -> None:
    x = data_of_different_channels()
    n = x[:, 0].numel()
    ours, peer = ActNorm(3), nflows.transforms.ActNorm(3)
    z, expected = ours(x)[0], peer(x)[0]
    same(z, expected * (n / (n - 1)) ** 0.5)


def test_actnorm_starts_as_that_of_normflows_but_for_an_unbiased_deviation() -> None:
    """Which adds a millionth to that, too, so that it agrees to that order."""
    x = data_of_different_channels()
    ours, peer = ActNorm(3), normflows.flows.ActNorm((3, 1, 1))
    n = x[:, 0].numel()
    expected = peer.inverse(x)[0] * (n / (n - 1)) ** 0.5
    torch.testing.assert_close(ours(x)[0], expected, rtol=1e-4, atol=1e-4)


def small_glow(mixing: str, *, steps: int = 2, top_prior: bool = False) -> Flow:
    flow = glow_image(
        SHAPE,
        levels=LEVELS,
        steps=steps,
        hidden=HIDDEN,
        mixing=mixing,
        split_prior=False,
        top_prior=top_prior,
        normalize_nets=False,
        edges=False,
    )
    return disturbed(flow).eval()


@LINEAR
def test_step_of_glow_agrees_with_normflows(mixing: str) -> None:
    level = small_glow(mixing, steps=1).transform.levels[0]
    ((actnorm, mix, coupling),) = triples(level)
    block = normflows_step(actnorm, mix, coupling)
    agree(Compose([actnorm, mix, coupling]), block.inverse, block.forward, 12, 4, 4)


def test_step_of_glow_agrees_with_nflows() -> None:
    level = small_glow("conv1x1", steps=1).transform.levels[0]
    ((actnorm, _, coupling),) = triples(level)
    peer = nflows_mix(12)
    mix = mix_of_nflows(peer, "conv1x1")
    chain = nflows.transforms.CompositeTransform(nflows_step(actnorm, coupling, peer))
    agree(Compose([actnorm, mix, coupling]), chain.forward, chain.inverse, 12, 4, 4)


@LINEAR
@pytest.mark.parametrize("top_prior", [False, True])
def test_multiscale_glow_agrees_with_normflows(mixing: str, top_prior: bool) -> None:
    flow = small_glow(mixing, top_prior=top_prior)
    peer = normflows_glow(flow)
    x = torch.randn(N, *SHAPE)
    same(flow.log_prob(x), peer.log_prob(x, None))


def test_multiscale_glow_agrees_with_normflows_on_samples() -> None:
    flow = small_glow("conv1x1_lu")
    z = torch.randn(N, math.prod(SHAPE))
    x, log_det = flow.transform.inverse(z)
    noise = [piece.contiguous() for piece in flow.transform.unflatten(z)]
    expected, expected_log_det = normflows_glow(flow).forward_and_log_det(noise[::-1])
    same(x, expected)
    same(log_det, expected_log_det)


def test_multiscale_glow_agrees_with_nflows() -> None:
    """There the first half of the channels leaves, so that the halves change places before."""
    flow = small_glow("conv1x1")
    peer = nflows.transforms.MultiscaleCompositeTransform(LEVELS)
    for index, level in enumerate(flow.transform.levels):
        parts: list[nn.Module] = [nflows.transforms.SqueezeTransform()]
        channels = len(triples(level)[0][0].bias)
        for actnorm, mix, coupling in triples(level):
            linear = nflows_mix(channels)
            mix.weight.data = mix_of_nflows(linear, "conv1x1").weight.detach()
            parts += nflows_step(actnorm, coupling, linear)
        if index < LEVELS - 1:
            halves = torch.arange(channels).roll(channels // 2)
            parts.append(nflows.transforms.Permutation(halves))
        side = SHAPE[1] // 2 ** (index + 1)
        peer.add_transform(nflows.transforms.CompositeTransform(parts), (channels, side, side))
    x, z = torch.randn(N, *SHAPE), torch.randn(N, math.prod(SHAPE))
    for ours, theirs in (
        (flow.transform(x), peer(x)),
        (flow.transform.inverse(z), peer.inverse(z)),
    ):
        for actual, expected in zip(ours, theirs, strict=True):
            same(actual, expected)
    noise, log_det = peer(x)
    same(flow.log_prob(x), torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum(1) + log_det)


def test_a_difference_of_a_hundred_millionth_is_noticed() -> None:
    flow = small_glow("conv1x1_lu")
    peer = normflows_glow(flow)
    peer.flows[0][0].flows[2].t.data[0, 0] += 1e-8
    x = torch.randn(N, *SHAPE)
    with pytest.raises(AssertionError):
        same(flow.log_prob(x), peer.log_prob(x, None))
