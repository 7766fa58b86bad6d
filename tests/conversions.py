"""Our layers in the conventions of other libraries, for test_peers.py.

Each peer is given a network that calls ours and restates shift m and factor exp(s) in the
peer's own parameters.
"""

from collections.abc import Callable

import nflows.transforms
import torch
import zuko.transforms
from torch import Tensor, nn

from nfbench.transforms.actnorm import ActNorm
from nfbench.transforms.autoregressive import Autoregressive
from nfbench.transforms.coupling import Coupling
from nfbench.transforms.lu import LULinear
from nfbench.transforms.normalize import BatchNorm
from nfbench.transforms.spline import SLOPE_SHIFT, RationalQuadratic

D, BOUND = 5, 1.5

# The factor exp(s) of the raw output a, written out a second time.
FACTORS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "log_precision": lambda a: torch.exp(a / 2),
    "tanh": lambda a: torch.exp(BOUND * torch.tanh(a / BOUND)),
    "sigmoid": lambda a: torch.sigmoid(a + 2),
    "softplus": lambda a: torch.log1p(torch.expm1(torch.ones(())) * torch.exp(a)),
    "clamp": lambda a: torch.exp(torch.clamp(a, -BOUND, BOUND)),
}


def inverse_softplus(y: Tensor) -> Tensor:
    return y + torch.log(-torch.expm1(-y))


class Restated(nn.Module):
    """A network for a peer: what ``restate`` makes of our net's shift m and factor exp(s)."""

    def __init__(
        self, net: nn.Module, scale: str, restate: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.net, self.scale, self.restate = net, scale, restate

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        shift, a = self.net(x, context)
        return self.restate(shift, FACTORS[self.scale](a))


def softplus_parameters(shift: Tensor, factor: Tensor) -> Tensor:
    """Interleaved (B, 2D): factor = softplus(first) + 1e-3, z = factor x + second."""
    return torch.stack([inverse_softplus(factor - 1e-3), -shift * factor], dim=-1).flatten(1)


def nflows_autoregressive(ours: Autoregressive) -> nn.Module:
    peer = nflows.transforms.MaskedAffineAutoregressiveTransform(D, hidden_features=4)
    peer.autoregressive_net = Restated(ours.made, ours.elementwise.scale, softplus_parameters)
    return peer


def nflows_batch_norm(ours: BatchNorm) -> nn.Module:
    peer = nflows.transforms.BatchNorm(D, eps=ours.eps).eval()
    peer.unconstrained_weight.data = inverse_softplus(ours.log_gain.detach().exp() - ours.eps)
    peer.bias.data, peer.running_mean, peer.running_var = ours.bias.detach(), ours.mean, ours.var
    return peer


def sigmoid_parameters(shift: Tensor, factor: Tensor) -> Tensor:
    """(B, 2|B|), shifts first: factor = sigmoid(second + 2) + 1e-3."""
    return torch.cat([-shift * factor, torch.logit(factor - 1e-3) - 2], dim=1)


def nflows_coupling(ours: Coupling) -> nn.Module:
    mapped = (torch.arange(D) < ours.n_first) == ours.swap
    net = Restated(ours.conditioner, ours.elementwise.scale, sigmoid_parameters)
    return nflows.transforms.AffineCouplingTransform(mapped.int(), lambda *_: net)


class Shift(nn.Module):
    """The shift that our additive coupling takes away, as the one that nflows adds, (B, d)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return -self.net(x, context)[0]


def nflows_additive_coupling(ours: Coupling) -> nn.Module:
    mapped = (torch.arange(D) < ours.n_first) == ours.swap
    net = Shift(ours.conditioner)
    return nflows.transforms.AdditiveCouplingTransform(mapped.int(), lambda *_: net)


class SplineNet(nn.Module):
    """Our conditioner's parameters in the order of nflows: (B, D * (3K - 1)), slopes shifted."""

    def __init__(self, net: nn.Module, spline: RationalQuadratic) -> None:
        super().__init__()
        self.net, self.spline = net, spline

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        parameters = self.net(x, context).clone()
        parameters[2 * self.spline.bins :] += SLOPE_SHIFT
        parameters[: 2 * self.spline.bins] /= self.spline.temperature
        return parameters.movedim(0, -1).flatten(1)


def nflows_lu(ours: LULinear) -> nn.Module:
    lower, upper, diagonal = ours.triangles()
    peer = nflows.transforms.LULinear(D)
    rows = torch.ones(D, D)
    peer.lower_entries.data = lower[rows.tril(-1).bool()].detach()
    peer.upper_entries.data = upper[rows.triu(1).bool()].detach()
    peer.unconstrained_upper_diag.data = inverse_softplus(diagonal.detach() - peer.eps)
    peer.bias.data = ours.bias.detach()
    return peer


def nflows_act_norm(ours: ActNorm) -> nn.Module:
    peer = nflows.transforms.ActNorm(D).eval()
    peer.log_scale.data, peer.shift.data = ours.log_gain.detach(), ours.bias.detach()
    return peer


def nflows_spline(ours: Coupling | Autoregressive) -> nn.Module:
    spline = ours.elementwise
    arguments = {"num_bins": spline.bins, "tails": "linear", "tail_bound": spline.tail_bound}
    if isinstance(ours, Coupling):
        mapped = ((torch.arange(D) < ours.n_first) == ours.swap).int()
        net = SplineNet(ours.conditioner, spline)
        free = ours.unconditional
        peer = nflows.transforms.PiecewiseRationalQuadraticCouplingTransform(
            mapped, lambda *_: net, apply_unconditional_transform=free is not None, **arguments
        )
        if free is not None:
            own = free.values.detach()[:, 0].t()  # (|A|, 3K - 1)
            widths, heights, slopes = own.split([spline.bins, spline.bins, spline.bins - 1], 1)
            peer.unconditional_transform.unnormalized_widths.data = widths
            peer.unconditional_transform.unnormalized_heights.data = heights
            peer.unconditional_transform.unnormalized_derivatives.data = slopes + SLOPE_SHIFT
        return peer
    peer = nflows.transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
        D, 4, **arguments
    )
    peer.autoregressive_net = SplineNet(ours.made, spline)
    return peer


class Flipped(nn.Module):
    """A network that sees its input, and gives its output, the other way round."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.net(x.flip(1), context).flip(-1)


def zuko_affine(shift: Tensor, factor: Tensor) -> zuko.transforms.Transform:
    """exp(a / (1 + |a / log(slope)|)) x + b, of which the soft bound is undone."""
    slope, log_factor = 1e-30, factor.log()
    a = log_factor / (1 + log_factor.abs() / torch.tensor(slope).log())
    affine = zuko.transforms.MonotonicAffineTransform(-shift * factor, a, slope=slope)
    return zuko.transforms.DependentTransform(affine, 1)


class OnMasked(nn.Module):
    """One of the two outputs of a coupling's net, spread over all dimensions."""

    def __init__(self, ours: Coupling, read: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.ours, self.read = ours, read

    def forward(self, x: Tensor) -> Tensor:
        fixed, _ = self.ours.split(x)
        return self.ours.join(
            torch.zeros_like(fixed), self.read(*self.ours.conditioner(fixed, None))
        )


class PyroNet(nn.Module):
    """Mean and log-scale, and the order of the dimensions."""

    def __init__(self, ours: Autoregressive) -> None:
        super().__init__()
        self.ours, self.permutation = ours, ours.made.order

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shift, a = self.ours.made(x)
        factor = FACTORS[self.ours.elementwise.scale](a)
        return -shift * factor, factor.log()
