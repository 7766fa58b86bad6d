"""Sampling a MAF: the incremental inverse against D full passes and other libraries."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.peers import MAFS, nfbench_maf
from benchmarks.timing import Comparison, Pace, command, interleave, verdict
from nfbench.flows.flow import Flow
from nfbench.nets.autoregress import full_passes
from nfbench.nets.made import MADE
from nfbench.transforms.autoregressive import Autoregressive

OURS, PLAIN = "nfbench, incremental", "nfbench, full passes"
TOLERANCE = 1e-6  # relative, in float32


@dataclass(frozen=True)
class Workload:
    """A MAF and how many samples are drawn of it."""

    features: int
    layers: int
    hidden: Sequence[int]
    samples: int
    rounds: int
    judged: bool = False

    @property
    def title(self) -> str:
        """What it is, in words."""
        network = f"MAF ({self.layers}), 2x{self.hidden[0]}"
        return f"{network}, D = {self.features}, {self.samples:,} samples"


WORKLOADS = (
    Workload(6, 5, (100, 100), 10_000, 7),
    Workload(43, 5, (100, 100), 1000, 7),
    Workload(63, 10, (512, 512), 1000, 5, judged=True),
)


def by_full_passes(flow: Flow, z: Tensor) -> Tensor:
    """The flow's inverse, every layer by one pass of its network for each dimension."""
    for part in reversed(flow.transform.parts):
        if not isinstance(part, Autoregressive):
            raise TypeError(
                f"flow: expected autoregressive layers only, got {type(part).__name__}"
            )
        z, _ = full_passes(part.made, part.solve, z)
    return z


def disagreement(flow: Flow, z: Tensor) -> float:
    """The largest difference between the two inverses, relative to the largest of its row."""
    ours, plain = flow.transform.inverse(z)[0], by_full_passes(flow, z)
    return ((ours - plain).abs().amax(1) / plain.abs().amax(1)).max().item()


def made_passes(call: Callable[[], object]) -> int:
    """How often ``call`` runs a network."""
    with patch.object(MADE, "evaluate", autospec=True, side_effect=MADE.evaluate) as evaluate:
        call()
    return evaluate.call_count


def verify(workload: Workload, flow: Flow) -> str:
    """Check what is compared: same samples, and one pass of each network for a density.

    Raises:
        ValueError: if the two inverses differ, or a density takes more passes.
    """
    z = torch.randn(64, workload.features)
    single = disagreement(flow, z)
    double = disagreement(flow.double(), z.double())
    flow.float()
    n_layers = workload.layers
    density = made_passes(lambda: flow.log_prob(z))
    plain = made_passes(lambda: by_full_passes(flow, z))
    if single > TOLERANCE:
        raise ValueError(f"inverse: expected agreement to {TOLERANCE}, got {single:.1e}")
    # The first dimension depends on nothing.
    if (density, plain) != (n_layers, n_layers * (workload.features - 1)):
        raise ValueError(
            f"passes: expected {n_layers} for a density, got {density} (full passes: {plain})"
        )
    return (
        f"The two inverses agree to {single:.0e} in float32, {double:.0e} in float64, relative. "
        f"A density runs {density} networks once each; the full passes run {plain}."
    )


@torch.no_grad()
def measure(workload: Workload, quick: bool) -> Comparison:
    """One workload: ours both ways, and the peers that are installed."""
    architecture = (workload.features, workload.layers, workload.hidden)
    ours = nfbench_maf(*architecture)
    flow = ours.module.eval()
    n = workload.samples // (10 if quick else 1)
    note = verify(workload, flow)
    calls: dict[str, Callable[[], object]] = {
        OURS: lambda: ours.sample(n),
        PLAIN: lambda: by_full_passes(flow, flow.base.sample(n)),
    }
    remarks = {OURS: "every hidden unit computed once", PLAIN: "the same model, D passes a layer"}
    for name, build in MAFS.items():
        try:
            peer = build(*architecture)
        except ModuleNotFoundError as error:
            note += f" {name} is left out: {error}."
            continue
        peer.module.eval()
        calls[name] = lambda peer=peer: peer.sample(n)
        remarks[name] = peer.remark
    result = Comparison(
        workload.title, OURS, "ms", interleave(calls, Pace.of(quick, workload.rounds)), remarks
    )
    if workload.judged:
        faster = result.ratio(PLAIN)
        note += "\n\n" + verdict(
            f"at least 20 times faster than full passes ({faster:.0f} times)", faster >= 20
        )
    return replace(result, target=note)


def compare(quick: bool) -> list[Comparison]:
    """All workloads."""
    return [measure(workload, quick) for workload in WORKLOADS]


if __name__ == "__main__":
    command("sample", "Sampling from a MAF", compare)()
