"""Densities of an IAF and samples of a spline MAF: the D dependent steps, against other libraries.

An IAF samples in one pass; its density is what takes D. The peers' flows are in the direction
that is native to each, or turned round by its own inverse.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import cycle

import torch
from torch import Tensor, nn

from benchmarks.peers import (
    Candidate,
    nflows_flow,
    nflows_maf,
    normflows_flow,
    pyro_maf,
    zuko_maf,
)
from benchmarks.timing import Comparison, Pace, command, interleave, verdict
from benchmarks.train import OURS, check
from nfbench.distributions.base import StandardNormal
from nfbench.flows.flow import Flow
from nfbench.flows.iaf import iaf
from nfbench.nets.made import MADE
from nfbench.transforms.autoregressive import Autoregressive
from nfbench.transforms.base import Compose
from nfbench.transforms.spline import RationalQuadratic

FEATURES, HIDDEN, ROWS, SAMPLES = 43, (100, 100), 1000, 1024
LAYERS, SPLINE_LAYERS = 5, 3
BINS, BOUND = 8, 5.0  # zuko's bound, which it fixes
TARGET = 0.15  # of the fastest peer's time
Build = Callable[[int, int, Sequence[int]], Candidate]


def nfbench_iaf(features: int, layers: int, hidden: Sequence[int]) -> Candidate:
    """``Inverse`` of a MAF, whose inverse computes every hidden unit once."""
    flow = iaf((features,), layers=layers, hidden=hidden, activation="relu")
    return Candidate(flow, flow.log_prob, flow.sample, "sigmoid scale; incremental inverse")


def nflows_iaf(features: int, layers: int, hidden: Sequence[int]) -> Candidate:
    """Its MAF in its ``InverseTransform``."""
    from nflows.transforms import InverseTransform

    forward = nflows_maf(features, layers, hidden).module.get_submodule("_transform")
    return nflows_flow(features, [InverseTransform(forward)], "softplus scale; InverseTransform")


def normflows_iaf(features: int, layers: int, hidden: Sequence[int]) -> Candidate:
    """Its autoregressive layer as it is: it generates in one pass."""
    from normflows import flows

    parts: list[nn.Module] = []
    for _ in range(layers):
        layer = flows.MaskedAffineAutoregressive(
            features, hidden[0], num_blocks=len(hidden) - 1, use_residual_blocks=False
        )
        parts += [layer, flows.Permute(features, mode="shuffle")]
    remark = "sigmoid scale; native; no activation after the first linear layer"
    return normflows_flow(features, parts[:-1], remark)


def zuko_iaf(features: int, layers: int, hidden: Sequence[int]) -> Candidate:
    """The lazy inverse of its MAF."""
    import zuko

    forward = zuko_maf(features, layers, hidden).module
    flow = zuko.lazy.Flow(forward.transform.inv, forward.base)
    return zuko_flow(flow, "soft-clipped scale; lazy inverse")


def zuko_flow(flow: nn.Module, remark: str) -> Candidate:
    return Candidate(flow, lambda x: flow().log_prob(x), lambda n: flow().sample((n,)), remark)


def pyro_iaf(features: int, layers: int, hidden: Sequence[int]) -> Candidate:
    """Its transforms map noise to data, as they are meant to; log-det from the cache."""
    from pyro.distributions import Normal

    transforms = list(pyro_maf(features, layers, hidden).module.children())
    base = Normal(torch.zeros(features), torch.ones(features)).to_event(1)

    def log_prob(x: Tensor) -> Tensor:
        total = torch.zeros(())
        for transform in transforms:
            z = transform.inv(x)
            total = total - transform.log_abs_det_jacobian(z, x)
            x = z
        return base.log_prob(x) + total

    def sample(n: int) -> Tensor:
        x = base.sample((n,))
        for transform in reversed(transforms):
            x = transform(x)
        return x

    remark = "clamped log-scale; native; random hidden degrees"
    return Candidate(nn.ModuleList(transforms), log_prob, sample, remark)


def nfbench_spline(features: int, layers: int, hidden: Sequence[int]) -> Candidate:
    """The autoregressive layers of ``nsf``, without residual blocks or linear maps."""
    spline = RationalQuadratic(bins=BINS, tail_bound=BOUND)
    parts = [
        Autoregressive(
            MADE(
                features,
                n_parameters=spline.n_parameters,
                hidden=hidden,
                reverse=layer % 2 == 1,
            ),
            spline,
        )
        for layer in range(layers)
    ]
    flow = Flow(StandardNormal([features]), Compose(parts))
    return Candidate(flow, flow.log_prob, flow.sample, "incremental inverse")


def nflows_spline(features: int, layers: int, hidden: Sequence[int]) -> Candidate:
    """The order reversed by a permutation between layers."""
    from nflows.transforms import (
        MaskedPiecewiseRationalQuadraticAutoregressiveTransform,
        ReversePermutation,
    )

    parts: list[nn.Module] = []
    for _ in range(layers):
        layer = MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
            features,
            hidden[0],
            num_bins=BINS,
            tails="linear",
            tail_bound=BOUND,
            num_blocks=len(hidden) - 1,
            use_residual_blocks=False,
        )
        parts += [layer, ReversePermutation(features)]
    return nflows_flow(features, parts[:-1], "rational-quadratic splines")


def zuko_spline(features: int, layers: int, hidden: Sequence[int]) -> Candidate:
    """Orders alternate in the masks."""
    import zuko

    flow = zuko.flows.NSF(features, bins=BINS, transforms=layers, hidden_features=hidden)
    return zuko_flow(flow, "rational-quadratic splines, raw slopes soft-clipped")


IAFS: dict[str, Build] = {
    OURS: nfbench_iaf,
    "nflows": nflows_iaf,
    "normflows": normflows_iaf,
    "zuko": zuko_iaf,
    "pyro": pyro_iaf,
}
SPLINES: dict[str, Build] = {OURS: nfbench_spline, "nflows": nflows_spline, "zuko": zuko_spline}


@torch.no_grad()
def measure(title: str, builds: Mapping[str, Build], layers: int, quick: bool) -> list[Comparison]:
    """Densities and samples of one kind of flow; the slow direction is the first of the two."""
    flows = {name: build(FEATURES, layers, HIDDEN) for name, build in builds.items()}
    n_rows, n_samples = (each // (10 if quick else 1) for each in (ROWS, SAMPLES))
    x = torch.randn(4, n_rows, FEATURES).unbind(0)
    for flow in flows.values():
        flow.module.eval()
        check(flow, x[0])
    remarks = {
        name: f"{flow.n_parameters:,} parameters; {flow.remark}" for name, flow in flows.items()
    }

    def compared(what: str, calls: Mapping[str, Callable[[], object]], rounds: int) -> Comparison:
        return Comparison(
            f"{title} ({layers}), 2x{HIDDEN[0]}, D = {FEATURES}: {what}",
            OURS,
            "ms",
            interleave(calls, Pace.of(quick, rounds)),
            remarks,
        )

    # Another tensor object each time: pyro answers from its cache when it sees the last again.
    rows = {name: cycle(x) for name in flows}
    densities = {
        name: lambda name=name, each=each: each.log_prob(next(rows[name]))
        for name, each in flows.items()
    }
    samples = {name: lambda each=each: each.sample(n_samples) for name, each in flows.items()}
    return [
        compared(f"log-density of {n_rows:,} rows", densities, 7),
        compared(f"{n_samples:,} samples", samples, 7),
    ]


def judged(result: Comparison) -> Comparison:
    """The comparison with its verdict."""
    fastest = min((name for name in result.seconds if name != OURS), key=result.ratio)
    ratio = result.ratio(OURS, fastest)
    text = f"at most {TARGET} of the fastest peer, {fastest} ({ratio:.2f} of it)"
    return replace(result, target=verdict(text, ratio <= TARGET))


def compare(quick: bool) -> list[Comparison]:
    """IAF, then a spline MAF; judged where D steps depend on one another."""
    density, samples = measure("IAF", IAFS, LAYERS, quick)
    spline_density, spline_samples = measure("Spline MAF", SPLINES, SPLINE_LAYERS, quick)
    return [judged(density), samples, judged(spline_samples), spline_density]


if __name__ == "__main__":
    command("iaf", "Densities of an IAF and samples of a spline MAF", compare)()
