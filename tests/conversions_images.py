"""Our image transforms in the conventions of nflows and normflows, for test_peers_images.py."""

from typing import TypeVar

import nflows.transforms
import normflows
import torch
from conversions import Restated, sigmoid_parameters
from torch import nn

from nfbench.flows.flow import Flow
from nfbench.transforms.actnorm import ActNorm
from nfbench.transforms.base import Compose
from nfbench.transforms.conv1x1 import Conv1x1, NormalizedConv1x1
from nfbench.transforms.coupling import Coupling
from nfbench.transforms.top_prior import TopPrior

Module = TypeVar("Module", bound=nn.Module)


@torch.no_grad()
def disturbed(module: Module) -> Module:
    """The same with parameters near those at the start, where every 1x1 map is a rotation."""
    for parameter in module.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return module


def triples(level: Compose) -> list[tuple[ActNorm, Conv1x1, Coupling]]:
    """The steps of a level, which begins with a squeeze."""
    mixes = [part for part in level.parts if isinstance(part, NormalizedConv1x1)]
    couplings = [part for part in level.parts if isinstance(part, Coupling)]
    return [(m.norm, m.conv, c) for m, c in zip(mixes, couplings, strict=True)]


def normflows_mix(ours: Conv1x1) -> nn.Module:
    channels = ours.matrix().shape[0]
    peer = normflows.flows.Invertible1x1Conv(channels, use_lu=ours.factors == "lu")
    if ours.factors == "full":
        peer.W.data = ours.weight.detach()
        return peer
    peer.P, peer.sign_S = ours.permutation, ours.sign
    peer.L.data = ours.lower_upper.detach().tril(-1)
    peer.U.data = ours.lower_upper.detach().triu(1)
    peer.log_S.data = ours.log_scale.detach()
    return peer


def nflows_mix(channels: int) -> nn.Module:
    """W = L U of a permutation of the channels, all of them random."""
    peer = nflows.transforms.OneByOneConvolution(channels, identity_init=False)
    peer.bias.data.zero_()
    return peer


def mix_of_nflows(peer: nn.Module, mixing: str) -> Conv1x1:
    """Ours with the peer's matrix, as it is or in factors."""
    permuted = torch.eye(peer.features)[peer.permutation._permutation]
    matrix = (peer.weight() @ permuted).detach()
    ours = Conv1x1(peer.features, factors="lu" if mixing == "conv1x1_lu" else "full")
    if mixing == "conv1x1":
        ours.weight.data = matrix
        return ours
    ours.permutation, lower, upper = torch.linalg.lu(matrix)
    ours.sign = upper.diagonal().sign()
    ours.lower_upper.data = lower.tril(-1) + upper.triu(1)
    ours.log_scale.data = upper.diagonal().abs().log()
    return ours


def nflows_actnorm(ours: ActNorm) -> nn.Module:
    peer = nflows.transforms.ActNorm(len(ours.bias)).eval()
    peer.log_scale.data, peer.shift.data = ours.log_gain.detach(), ours.bias.detach()
    return peer


def normflows_actnorm(ours: ActNorm) -> nn.Module:
    """From noise to data: x = exp(-s) z - exp(-s) b."""
    peer = normflows.flows.ActNorm((len(ours.bias), 1, 1))
    scale = -ours.log_gain.detach()
    peer.s.data = scale.view(1, -1, 1, 1)
    peer.t.data = (-ours.bias.detach() * scale.exp()).view(1, -1, 1, 1)
    peer.data_dep_init_done.fill_(1.0)
    return peer


def nflows_step(actnorm: ActNorm, coupling: Coupling, linear: nn.Module) -> list[nn.Module]:
    """Three transforms, its own linear one in the middle."""
    channels = len(actnorm.bias)
    mapped = (torch.arange(channels) >= coupling.n_first).int()
    net = Restated(coupling.conditioner, "sigmoid", sigmoid_parameters)
    affine = nflows.transforms.AffineCouplingTransform(mapped, lambda *_: net)
    return [nflows_actnorm(actnorm), linear, affine]


def normflows_step(actnorm: ActNorm, mix: Conv1x1, coupling: Coupling) -> nn.Module:
    """A block whose own convolutions have our weights, shift and scale in turn."""
    channels, ours = len(actnorm.bias), coupling.conditioner
    hidden = ours.first.weight.shape[0]
    block = normflows.flows.GlowBlock(channels, hidden, use_lu=mix.factors == "lu")
    net = block.flows[0].flows[1].param_map.net
    for layer, mine in ((net[0], ours.first), (net[2], ours.second)):
        layer.weight.data, layer.bias.data = mine.weight.detach(), mine.bias.detach()
    order = torch.arange(channels).view(2, -1).t().flatten()  # 0, C/2, 1, C/2 + 1, ...
    gain = torch.exp(3 * ours.last.log_scale.detach())
    net[4].weight.data = (ours.last.weight.detach() * gain.view(-1, 1, 1, 1))[order]
    net[4].bias.data = (ours.last.bias.detach() * gain)[order]
    block.flows[1], block.flows[2] = normflows_mix(mix), normflows_actnorm(actnorm)
    return block


def normflows_prior(ours: TopPrior, shape: tuple[int, ...]) -> nn.Module:
    """Mean m exp(3 l) and log-deviation -s exp(3 l') of each channel."""
    peer = normflows.distributions.GlowBase(shape)
    (mean, scale), (mean_gain, scale_gain) = ours.bias.chunk(2), ours.log_scale.chunk(2)
    for parameter, value in (
        (peer.loc, mean),
        (peer.loc_logs, mean_gain),
        (peer.log_scale, -scale),
        (peer.log_scale_logs, scale_gain),
    ):
        parameter.data = value.detach().view(1, -1, 1, 1)
    return peer


def normflows_glow(flow: Flow) -> nn.Module:
    """From the top level to the first; its merge has what leaves as the second half, as ours."""
    levels, bases, shapes = [], [], flow.transform.shapes
    for level, shape in zip(reversed(flow.transform.levels), reversed(shapes), strict=True):
        blocks = [normflows_step(*parts) for parts in reversed(triples(level))]
        levels.append([*blocks, normflows.flows.Squeeze()])
        bases.append(normflows.distributions.DiagGaussian(shape, trainable=False))
    prior = flow.transform.levels[-1].parts[-1]
    if isinstance(prior, TopPrior):
        bases[0] = normflows_prior(prior, shapes[-1])
    merges = [normflows.flows.Merge() for _ in levels[1:]]
    return normflows.MultiscaleFlow(bases, levels, merges, class_cond=False)
