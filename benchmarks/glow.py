"""Training steps, densities and samples of Glow against other libraries."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count

import click
import torch
from torch import Tensor, nn

from benchmarks.peers import Candidate
from benchmarks.timing import Comparison, Pace, interleave, publish, verdict
from benchmarks.train import OURS, POOL, RATE, TIE, check, training
from nfbench.flows.glow import glow_image

CHANNELS, SIDE = 3, 32
LEVELS, STEPS, HIDDEN = 3, 8, 128
BATCH = 16
ROUNDS = 11
TITLE = f"Glow (L = {LEVELS}, K = {STEPS}, {HIDDEN} channels), {CHANNELS} x {SIDE} x {SIDE}"


def nfbench_glow(
    remark: str = "W trained as it is", *, steps: int = STEPS, **settings: object
) -> Candidate:
    """The architecture that all have: plain nets that see no edges, no learned priors."""
    flow = glow_image(
        (CHANNELS, SIDE, SIDE),
        levels=LEVELS,
        steps=steps,
        hidden=HIDDEN,
        split_prior=False,
        top_prior=False,
        normalize_nets=False,
        edges=False,
        **settings,
    )
    return Candidate(flow, flow.log_prob, flow.sample, remark)


def conv_net(n_in: int, n_out: int) -> nn.Module:
    """3x3, 1x1 and 3x3 convolutions; the last is zero at first, as the others' are."""
    last = nn.Conv2d(HIDDEN, n_out, 3, padding=1)
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    return ConvNet(
        nn.Conv2d(n_in, HIDDEN, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(HIDDEN, HIDDEN, 1),
        nn.ReLU(inplace=True),
        last,
    )


class ConvNet(nn.Sequential):
    """Layers in order, called with a context that is not there."""

    def forward(self, x: Tensor, context: None = None) -> Tensor:
        return super().forward(x)


def nflows_glow() -> Candidate:
    """Its parts, composed as in the Neural Spline Flows' code; half of the channels leave."""
    from nflows import transforms
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow

    channels, side = CHANNELS, SIDE
    chain = transforms.MultiscaleCompositeTransform(LEVELS)
    for _ in range(LEVELS):
        channels, side = 4 * channels, side // 2
        parts = [transforms.SqueezeTransform()]
        mapped = (torch.arange(channels) >= channels // 2).int()
        for _ in range(STEPS):
            parts += [
                transforms.ActNorm(channels),
                transforms.OneByOneConvolution(channels),
                transforms.AffineCouplingTransform(mapped, conv_net),
            ]
        level = transforms.CompositeTransform(parts)
        chain.add_transform(level, (channels, side, side))
        channels //= 2
    flow = Flow(chain, StandardNormal([CHANNELS * SIDE * SIDE]))
    return Candidate(flow, flow.log_prob, flow.sample, "W = L U, permutation")


def normflows_glow() -> Candidate:
    """Its Glow blocks, listed from noise to data; half of the channels leave."""
    import normflows

    bases, merges, levels = [], [], []
    for level in range(LEVELS):  # from the top
        depth = LEVELS - level
        channels, side = CHANNELS * 2 ** (depth + 1), SIDE // 2**depth
        blocks = [normflows.flows.GlowBlock(channels, HIDDEN) for _ in range(STEPS)]
        levels.append([*blocks, normflows.flows.Squeeze()])
        is_top = level == 0
        merges += [] if is_top else [normflows.flows.Merge()]
        shape = (channels if is_top else channels // 2, side, side)
        bases.append(normflows.distributions.DiagGaussian(shape, trainable=False))
    flow = normflows.MultiscaleFlow(bases, levels, merges, class_cond=False)
    remark = "W = P L U; sampling computes densities too"
    return Candidate(flow, lambda x: flow.log_prob(x, None), lambda n: flow.sample(n)[0], remark)


PEERS = {"nflows": nflows_glow, "normflows": normflows_glow}


def ours(compiled: bool) -> dict[str, Candidate]:
    """Our flow as it is by default, and as it can be set."""
    flows = {
        OURS: nfbench_glow(),
        f"{OURS}, LU": nfbench_glow("W = P L U", mixing="conv1x1_lu"),
        f"{OURS}, bfloat16": nfbench_glow("nets in bfloat16, in training", net_dtype="bfloat16"),
        f"{OURS}, reversible": nfbench_glow("activations computed again", reversible=True),
    }
    if compiled:
        flows[f"{OURS}, compiled"] = compile_density(nfbench_glow("by torch.compile"))
        both = nfbench_glow("both, in training", net_dtype="bfloat16")
        flows[f"{OURS}, bfloat16, compiled"] = compile_density(both)
    return flows


def compile_density(candidate: Candidate) -> Candidate:
    """The same with a density that is compiled at its first call, once actnorm is set."""
    compiled = torch.compile(candidate.log_prob, dynamic=False)

    def log_prob(x: Tensor) -> Tensor:
        waits = any(getattr(part, "is_waiting", False) for part in candidate.module.modules())
        return candidate.log_prob(x) if waits else compiled(x)

    return replace(candidate, log_prob=log_prob)


def plain_training(candidate: Candidate, draw: Callable[[], Tensor]) -> Callable[[], None]:
    """A training step with Adam as torch has it by default, as the peers' examples do."""
    optimizer = torch.optim.Adam(candidate.module.parameters(), lr=RATE)

    def step() -> None:
        optimizer.zero_grad()
        (-candidate.log_prob(draw()).mean()).backward()
        optimizer.step()

    return step


def measure(quick: bool, compiled: bool) -> list[Comparison]:
    """Training steps, densities and samples."""
    peers = {name: build() for name, build in PEERS.items()}
    flows = ours(compiled) | peers
    drawn, turn = torch.rand(POOL, BATCH, CHANNELS, SIDE, SIDE) - 0.5, count()

    def draw() -> Tensor:
        return drawn[next(turn) % POOL]

    remarks = {}
    for name, flow in flows.items():
        check(flow, draw())
        remarks[name] = f"{flow.n_parameters:,} parameters; {flow.remark}"
    steps = {name: training(flow, draw, flat=name not in peers) for name, flow in flows.items()}
    for name, flow in peers.items():
        steps[f"{name}, plain Adam"] = plain_training(flow, draw)
        remarks[f"{name}, plain Adam"] = "the same, its Adam not fused"
    results = [compared(f"a training step, batch {BATCH}", steps, remarks, quick)]
    for flow in flows.values():
        flow.module.eval()
    # The others are the same in evaluation; compiling is for training.
    chosen = [OURS, f"{OURS}, LU", *peers]
    with torch.no_grad():
        densities = {name: lambda each=flows[name]: each.log_prob(draw()) for name in chosen}
        results.append(compared(f"log-density of {BATCH} images", densities, remarks, quick))
        samples = {name: lambda each=flows[name]: each.sample(BATCH) for name in chosen}
        results.append(compared(f"{BATCH} samples", samples, remarks, quick))
    return results


def compared(
    what: str, calls: Mapping[str, Callable[[], object]], remarks: Mapping[str, str], quick: bool
) -> Comparison:
    """Ratios to the fastest peer whose optimizer is ours, and whether we are faster."""
    seconds = interleave(calls, Pace.of(quick, ROUNDS))
    raw = Comparison(f"{TITLE}: {what}", OURS, "ms", seconds, remarks)
    fastest = min(PEERS, key=raw.ratio)
    ratio = raw.ratio(OURS, fastest)
    text = f"faster than the fastest peer, {fastest} ({ratio:.2f} of it; from {1 / TIE:.2f} a tie)"
    return replace(raw, reference=fastest, target=verdict(text, ratio < 1 / TIE))


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="A smoke test: short bursts; prints, writes nothing.")
@click.option("--compile", "compiled", is_flag=True, help="Ours compiled, too: minutes more.")
def run(quick: bool, compiled: bool) -> None:
    title = "Glow against other libraries"
    publish("glow", title, lambda: measure(quick, compiled), quick=quick)


if __name__ == "__main__":
    run()
