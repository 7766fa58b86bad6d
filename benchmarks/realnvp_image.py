"""Training steps, densities and samples of Real NVP for images against other libraries."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import count
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from benchmarks.peers import Candidate, stacked
from benchmarks.timing import Comparison, Pace, command, interleave, verdict
from benchmarks.train import OURS, POOL, TIE, check, training
from nfbench.distributions.base import StandardNormal
from nfbench.flows.flow import Flow
from nfbench.flows.realnvp import channel_couplings, realnvp_image
from nfbench.nets.realnvp_net import EPS, RealNVPNet
from nfbench.transforms.base import Compose
from nfbench.transforms.coupling import Coupling
from nfbench.transforms.masked import MaskedCoupling, checkerboard
from nfbench.transforms.multiscale import MultiScale
from nfbench.transforms.squeeze import Squeeze

CHANNELS, SIDE = 3, 32
SHAPE = (CHANNELS, SIDE, SIDE)
SQUEEZED = (4 * CHANNELS, SIDE // 2, SIDE // 2)
SCALES, BLOCKS, FEATURES = 2, 4, 32
COUPLINGS = 6  # of the second workload
BATCH = 16
ROUNDS = 5
TITLE = "Real NVP for images"
NETS, BARE, LAST = "plain nets", "no norms", "channels last"
Join = Callable[[Tensor, Tensor], Any]
Net = Callable[..., nn.Module]


class PlainNet(nn.Module):
    """The net of Real NVP from torch's own parts; ``join`` makes of m and s what is wanted."""

    def __init__(
        self,
        channels: int,
        *,
        features: int,
        mask: Tensor | None = None,
        batch_norm: bool = True,
        channels_last: bool = False,
        join: Join = lambda shift, log_scale: (shift, log_scale),
    ) -> None:
        super().__init__()
        self.layout = torch.channels_last if channels_last else torch.preserve_format
        self.join = join
        self.register_buffer("mask", mask, persistent=False)
        n_in = 2 * channels + (mask is not None)
        self.norm = norm(channels, batch_norm)
        self.first = conv(n_in, features, 3)
        self.blocks = nn.ModuleList(PlainBlock(features, batch_norm) for _ in range(BLOCKS))
        self.skips = nn.ModuleList(conv(features, features, 1) for _ in range(BLOCKS + 1))
        self.top = norm(features, batch_norm)
        self.last = conv(features, 2 * channels, 1)
        self.rescaling = nn.Parameter(torch.tensor(0.0 if mask is not None else 1.0))

    def forward(self, x: Tensor, context: None = None) -> Any:
        x = self.norm(x.to(memory_format=self.layout))
        parts = [x, -x]
        if self.mask is not None:
            parts.append(self.mask.expand(len(x), 1, -1, -1))
        h = self.first(F.relu(torch.cat(parts, dim=1)))
        total = self.skips[0](h)
        for block, skip in zip(self.blocks, self.skips[1:], strict=True):
            h = block(h)
            total = total + skip(h)
        shift, raw = self.last(F.relu(self.top(total))).chunk(2, dim=1)
        return self.join(shift, self.rescaling * torch.tanh(raw))


def in_turn(shift: Tensor, log_scale: Tensor) -> Tensor:
    """shift_1, log_scale_1, shift_2, ... along the channels."""
    return torch.stack((shift, log_scale), dim=2).flatten(1, 2)


class PlainBlock(nn.Module):
    """Two 3x3 convolutions, each after a norm and relu, and the input added."""

    def __init__(self, features: int, batch_norm: bool) -> None:
        super().__init__()
        first = conv(features, features, 3, bias=not batch_norm)
        second = conv(features, features, 3)
        norms = norm(features, batch_norm), norm(features, batch_norm)
        self.layers = nn.Sequential(norms[0], nn.ReLU(), first, norms[1], nn.ReLU(), second)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def norm(channels: int, batch_norm: bool) -> nn.Module:
    return nn.BatchNorm2d(channels, eps=EPS) if batch_norm else nn.Identity()


def conv(n_in: int, n_out: int, kernel: int, *, bias: bool = True) -> nn.Module:
    return weight_norm(nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2, bias=bias))


class LogScale(nn.Module):
    """The log-scale of a net, whose shift is kept for ``Shift``: one evaluation for both."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        self.shift, log_scale = self.net(x)
        return log_scale


class Shift(nn.Module):
    """The shift of the evaluation that has just given the log-scale."""

    def __init__(self, source: LogScale) -> None:
        super().__init__()
        self.of = (source,)  # in a tuple, so that its parameters are not counted twice

    def forward(self, x: Tensor) -> Tensor:
        return self.of[0].shift


def nfbench_whole(remark: str, **settings: Any) -> Candidate:
    flow = realnvp_image(SHAPE, scales=SCALES, blocks=BLOCKS, features=FEATURES, **settings)
    return Candidate(flow, flow.log_prob, flow.sample, remark)


def nfbench_plain(remark: str) -> Candidate:
    """Our flow around the peers' nets; no norms between couplings."""
    candidate = nfbench_whole(remark, batch_norm=False)
    for part in candidate.module.modules():
        if isinstance(part, Coupling | MaskedCoupling):
            n_out, features = part.conditioner.last.weight.shape[:2]
            mask = getattr(part, "fixed", None)
            part.conditioner = PlainNet(n_out // 2, features=features, mask=mask)
    return candidate


def nfbench_channels(remark: str, net: Net, batch_norm: bool) -> Candidate:
    """A squeeze and couplings of the channels, in one level."""
    net = partial(net, 2 * CHANNELS, features=2 * FEATURES)
    couplings = channel_couplings(net, COUPLINGS, 4 * CHANNELS, batch_norm)
    level = Compose([Squeeze(), *couplings])
    flow = Flow(StandardNormal([prod(SHAPE)]), MultiScale([level], [SQUEEZED], []))
    return Candidate(flow, flow.log_prob, flow.sample, remark)


def normflows_whole(remark: str, **settings: Any) -> Candidate:
    """Checkerboards by masks, channels by halves; half of the channels leave."""
    import normflows

    net = partial(PlainNet, **settings)
    colors = [masked_coupling(CHANNELS, SIDE, FEATURES, layer, net) for layer in range(3)]
    halves = [channel_coupling(layer, net) for layer in range(3)]
    level = [*colors, normflows.flows.Squeeze(), *halves]
    small = 2 * CHANNELS, SIDE // 2, 2 * FEATURES
    top = [masked_coupling(*small, layer, net) for layer in range(4)]
    # Its lists run from noise to data, and a squeeze there spreads the channels over space.
    levels = [top[::-1], level[::-1]]
    shape = (2 * CHANNELS, SIDE // 2, SIDE // 2)
    bases = [normflows.distributions.DiagGaussian(shape, trainable=False) for _ in range(SCALES)]
    flow = normflows.MultiscaleFlow(bases, levels, [normflows.flows.Merge()], class_cond=False)
    return Candidate(flow, lambda x: flow.log_prob(x, None), lambda n: flow.sample(n)[0], remark)


def masked_coupling(channels: int, side: int, features: int, layer: int, net: Net) -> nn.Module:
    import normflows

    fixed = checkerboard((side, side), swap=layer % 2 == 0)
    log_scale = LogScale(net(channels, features=features, mask=fixed))
    mask = fixed.expand(channels, -1, -1).contiguous()
    return normflows.flows.MaskedAffineFlow(mask, Shift(log_scale), log_scale)


def channel_coupling(layer: int, net: Net) -> nn.Module:
    import normflows

    parameters = net(2 * CHANNELS, features=2 * FEATURES, join=in_turn)
    mode = "channel_inv" if layer % 2 else "channel"
    return normflows.flows.AffineCouplingBlock(parameters, split_mode=mode)


def normflows_channels(remark: str, **settings: Any) -> Candidate:
    import normflows

    net = partial(PlainNet, **settings)
    couplings = [channel_coupling(layer, net) for layer in range(COUPLINGS)]
    base = normflows.distributions.DiagGaussian(SQUEEZED, trainable=False)
    flow = normflows.NormalizingFlow(base, [*couplings[::-1], normflows.flows.Squeeze()])
    return Candidate(flow, flow.log_prob, lambda n: flow.sample(n)[0], remark)


def nflows_channels(remark: str, **settings: Any) -> Candidate:
    from nflows import transforms
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow

    def net(n_in: int, n_out: int) -> nn.Module:
        return PlainNet(n_in, features=2 * FEATURES, join=stacked, **settings)

    mapped = (torch.arange(4 * CHANNELS) >= 2 * CHANNELS).int()
    masks = [1 - mapped if layer % 2 else mapped for layer in range(COUPLINGS)]
    couplings = [transforms.AffineCouplingTransform(mask, net) for mask in masks]
    chain = transforms.CompositeTransform([transforms.SqueezeTransform(), *couplings])
    flow = Flow(chain, StandardNormal(SQUEEZED))
    return Candidate(flow, flow.log_prob, flow.sample, remark)


def whole() -> tuple[str, dict[str, Candidate]]:
    """All of Real NVP: couplings of checkerboards and of channels, in two scales."""
    return f"{SCALES} scales", {
        OURS: nfbench_whole("norms in nets and between couplings"),
        f"{OURS}, {NETS}": nfbench_plain("norms in nets, which are the peers'"),
        f"{OURS}, bfloat16": nfbench_whole("nets in bfloat16, in training", net_dtype="bfloat16"),
        f"{OURS}, {BARE}": nfbench_whole("no norms at all", batch_norm=False),
    } | ways("normflows", normflows_whole)


def channels() -> tuple[str, dict[str, Candidate]]:
    """The couplings that all libraries have: those of the halves of the channels."""
    net, bare = (partial(RealNVPNet, blocks=BLOCKS, batch_norm=way) for way in (True, False))
    flows = {
        OURS: nfbench_channels("norms in nets and between couplings", net, True),
        f"{OURS}, {NETS}": nfbench_channels("norms in nets, the peers'", PlainNet, False),
        f"{OURS}, {BARE}": nfbench_channels("no norms at all", bare, False),
    }
    flows |= ways("nflows", nflows_channels) | ways("normflows", normflows_channels)
    return f"{COUPLINGS} couplings of channels, {' x '.join(map(str, SQUEEZED))}", flows


def ways(peer: str, build: Callable[..., Candidate]) -> dict[str, Candidate]:
    """A peer with norms in its nets and without, channels first and last in memory."""
    return {
        peer: build("norms in nets"),
        f"{peer}, {LAST}": build("the same", channels_last=True),
        f"{peer}, {BARE}": build("no norms at all", batch_norm=False),
        f"{peer}, {BARE}, {LAST}": build("the same", batch_norm=False, channels_last=True),
    }


def measure(what: str, flows: Mapping[str, Candidate], quick: bool) -> list[Comparison]:
    """Training steps, densities and samples."""
    drawn, turn = torch.rand(POOL, BATCH, *SHAPE) - 0.5, count()

    def draw() -> Tensor:
        return drawn[next(turn) % POOL]

    def compared(of: str, calls: Mapping[str, Callable[[], object]]) -> Comparison:
        title, seconds = f"{TITLE}, {what}: {of}", interleave(calls, Pace.of(quick, ROUNDS))
        return judged(Comparison(title, OURS, "ms", seconds, remarks))

    remarks = {}
    for name, flow in flows.items():
        check(flow, draw())
        remarks[name] = f"{flow.n_parameters:,} parameters; {flow.remark}"
    steps = {name: training(flow, draw, flat=OURS in name) for name, flow in flows.items()}
    results = [compared(f"a training step, batch {BATCH}", steps)]
    # In evaluation nets are in full precision.
    chosen = {name: flow for name, flow in flows.items() if "bfloat16" not in name}
    for flow in chosen.values():
        flow.module.eval()
    with torch.no_grad():
        densities = {
            name: lambda each=each: each.log_prob(draw()) for name, each in chosen.items()
        }
        results.append(compared(f"log-density of {BATCH} images", densities))
        samples = {name: lambda each=each: each.sample(BATCH) for name, each in chosen.items()}
        results.append(compared(f"{BATCH} samples", samples))
    return results


def judged(raw: Comparison) -> Comparison:
    """Ratios to the fastest peer with norms, and whether we are faster with and without them."""
    peers = [name for name in raw.seconds if OURS not in name]
    fastest = min((name for name in peers if BARE not in name), key=raw.ratio)
    bare = min((name for name in peers if BARE in name), key=raw.ratio)
    ratios = raw.ratio(OURS, fastest), raw.ratio(f"{OURS}, {BARE}", bare)
    text = (
        f"faster than the fastest peer, {fastest} ({ratios[0]:.2f} of it; from {1 / TIE:.2f} a "
        f"tie), and so without norms ({ratios[1]:.2f} of {bare})"
    )
    return replace(raw, reference=fastest, target=verdict(text, max(ratios) < 1 / TIE))


def compare(quick: bool) -> list[Comparison]:
    """Both workloads."""
    return [result for build in (whole, channels) for result in measure(*build(), quick)]


if __name__ == "__main__":
    command("realnvp_image", f"{TITLE} against other libraries", compare)()
