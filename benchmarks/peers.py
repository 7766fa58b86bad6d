"""The same flows built from other libraries, in the direction whose density is one pass.

Every library is imported only when its flow is built. What cannot match is in the remark.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from nfbench.flows.maf import maf
from nfbench.flows.realnvp import realnvp


@dataclass(frozen=True)
class Candidate:
    """A flow of some library: its parameters, log p(x) of rows (B, D), n samples (n, D)."""

    module: nn.Module
    log_prob: Callable[[Tensor], Tensor]
    sample: Callable[[int], Tensor]
    remark: str

    @property
    def n_parameters(self) -> int:
        """Trained numbers, those of masked connections included."""
        return sum(each.numel() for each in self.module.parameters() if each.requires_grad)


class ShiftAndScaleNets(nn.Module):
    """Two MLPs, relu for the shift and tanh for the raw scale, joined as a library wants."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        hidden: Sequence[int],
        join: Callable[[Tensor, Tensor], object],
    ) -> None:
        super().__init__()
        widths, self.join = [n_in, *hidden, n_out], join
        self.shift, self.scale = mlp(widths, nn.ReLU), mlp(widths, nn.Tanh)

    def forward(self, x: Tensor, context: None = None) -> object:
        return self.join(self.shift(x), self.scale(x))


def mlp(widths: Sequence[int], activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Linear layers with an activation between them."""
    layers = [part for pair in pairwise(widths) for part in (nn.Linear(*pair), activation())]
    return nn.Sequential(*layers[:-1])


def interleaved(shift: Tensor, scale: Tensor) -> Tensor:
    """shift_1, scale_1, shift_2, ... along the last dimension."""
    return torch.stack((shift, scale), dim=2).flatten(1)


def stacked(shift: Tensor, scale: Tensor) -> Tensor:
    """All shifts, then all scales."""
    return torch.cat((shift, scale), dim=1)


def nfbench_maf(features: int, layers: int, hidden: Sequence[int]) -> Candidate:
    """Half a log-precision as the log-scale, the input order turned round in the masks."""
    flow = maf((features,), layers=layers, hidden=hidden, batch_norm=False)
    return Candidate(flow, flow.log_prob, flow.sample, "log-precision scale")


def nfbench_realnvp(features: int, layers: int, hidden: Sequence[int]) -> Candidate:
    """Alternate dimensions as halves."""
    flow = realnvp((features,), layers=layers, hidden=hidden, batch_norm=False)
    return Candidate(flow, flow.log_prob, flow.sample, "exp scale")


def nflows_maf(features: int, layers: int, hidden: Sequence[int]) -> Candidate:
    """The order reversed by a permutation between layers."""
    from nflows.transforms import MaskedAffineAutoregressiveTransform, ReversePermutation

    parts = []
    for _ in range(layers):
        parts.append(
            MaskedAffineAutoregressiveTransform(
                features, hidden[0], num_blocks=len(hidden) - 1, use_residual_blocks=False
            )
        )
        parts.append(ReversePermutation(features))
    return nflows_flow(features, parts[:-1], "softplus scale")


def nflows_realnvp(features: int, layers: int, hidden: Sequence[int]) -> Candidate:
    """Alternate dimensions as halves, by masks."""
    from nflows.transforms import AffineCouplingTransform

    mask = torch.arange(features) % 2

    def nets(n_in: int, n_out: int) -> nn.Module:
        return ShiftAndScaleNets(n_in, n_out // 2, hidden, stacked)

    parts = [
        AffineCouplingTransform(1 - mask if layer % 2 else mask, nets) for layer in range(layers)
    ]
    return nflows_flow(features, parts, "sigmoid scale")


def nflows_flow(features: int, parts: Sequence[nn.Module], remark: str) -> Candidate:
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow
    from nflows.transforms import CompositeTransform

    flow = Flow(CompositeTransform(parts), StandardNormal([features]))
    return Candidate(flow, flow.log_prob, flow.sample, remark)


def normflows_maf(features: int, layers: int, hidden: Sequence[int]) -> Candidate:
    """Its autoregressive layer generates in one pass; reversed, its density is one pass."""
    from normflows import flows

    parts = []
    for _ in range(layers):
        layer = flows.MaskedAffineAutoregressive(
            features, hidden[0], num_blocks=len(hidden) - 1, use_residual_blocks=False
        )
        parts += [flows.base.Reverse(layer), flows.Permute(features, mode="shuffle")]
    remark = "sigmoid scale; layers reversed; no activation after the first linear layer"
    return normflows_flow(features, parts[:-1], remark)


def normflows_realnvp(features: int, layers: int, hidden: Sequence[int]) -> Candidate:
    """Contiguous halves, swapped between the couplings."""
    from normflows import flows

    parts = []
    for _ in range(layers):
        nets = ShiftAndScaleNets(features - features // 2, features // 2, hidden, interleaved)
        parts += [
            flows.AffineCouplingBlock(nets, scale_map="exp"),
            flows.Permute(features, mode="swap"),
        ]
    return normflows_flow(
        features, parts[:-1], "exp scale; AffineCouplingBlock, whose nets see a half only"
    )


def normflows_flow(features: int, parts: Sequence[nn.Module], remark: str) -> Candidate:
    from normflows import NormalizingFlow
    from normflows.distributions import DiagGaussian

    flow = NormalizingFlow(DiagGaussian(features, trainable=False), parts)
    return Candidate(
        flow,
        flow.log_prob,
        lambda n: flow.sample(n)[0],
        f"{remark}; sampling computes densities too",
    )


def zuko_maf(features: int, layers: int, hidden: Sequence[int]) -> Candidate:
    """Orders alternate in the masks."""
    import zuko

    flow = zuko.flows.MAF(features, transforms=layers, hidden_features=hidden)
    return Candidate(
        flow, lambda x: flow().log_prob(x), lambda n: flow().sample((n,)), "soft-clipped scale"
    )


def zuko_realnvp(features: int, layers: int, hidden: Sequence[int]) -> Candidate:
    """Its coupling with our two nets in place of its one."""
    import zuko

    flow = zuko.flows.RealNVP(features, transforms=layers, hidden_features=hidden)
    for layer in flow.transform.transforms:
        n_in = int(layer.mask.sum())
        layer.hyper = ShiftAndScaleNets(n_in, features - n_in, hidden, interleaved)
    return Candidate(
        flow, lambda x: flow().log_prob(x), lambda n: flow().sample((n,)), "soft-clipped scale"
    )


def pyro_maf(features: int, layers: int, hidden: Sequence[int]) -> Candidate:
    """Its transforms map data to noise here: one pass for a density, log-det from the cache."""
    from pyro.distributions.transforms import AffineAutoregressive
    from pyro.nn import AutoRegressiveNN

    order = torch.arange(features)
    nets = [
        AutoRegressiveNN(features, list(hidden), permutation=order.flip(0) if layer % 2 else order)
        for layer in range(layers)
    ]
    return pyro_flow(
        features,
        [AffineAutoregressive(net) for net in nets],
        "clamped log-scale; random hidden degrees",
    )


def pyro_realnvp(features: int, layers: int, hidden: Sequence[int]) -> Candidate:
    """Contiguous halves, the dimensions turned round between the couplings."""
    from pyro.distributions.transforms import AffineCoupling, Permute

    n_first, reversal = features - features // 2, torch.arange(features).flip(0)
    parts = []
    for _ in range(layers):
        nets = ShiftAndScaleNets(
            n_first, features - n_first, hidden, lambda shift, scale: (shift, scale)
        )
        parts += [AffineCoupling(n_first, nets), Permute(reversal)]
    return pyro_flow(features, parts[:-1], "clamped log-scale")


def pyro_flow(features: int, transforms: Sequence[nn.Module], remark: str) -> Candidate:
    from pyro.distributions import Normal

    base = Normal(torch.zeros(features), torch.ones(features)).to_event(1)

    def log_prob(x: Tensor) -> Tensor:
        total = torch.zeros(())
        for transform in transforms:
            z = transform(x)
            total = total + transform.log_abs_det_jacobian(x, z)
            x = z
        return base.log_prob(x) + total

    def sample(n: int) -> Tensor:
        z = base.sample((n,))
        for transform in reversed(transforms):
            z = transform.inv(z)
        return z

    modules = nn.ModuleList(part for part in transforms if isinstance(part, nn.Module))
    return Candidate(modules, log_prob, sample, remark)


MAFS = {"nflows": nflows_maf, "normflows": normflows_maf, "zuko": zuko_maf, "pyro": pyro_maf}
REALNVPS = {
    "nflows": nflows_realnvp,
    "normflows": normflows_realnvp,
    "zuko": zuko_realnvp,
    "pyro": pyro_realnvp,
}
