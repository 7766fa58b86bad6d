"""Inverses of a MAF: incremental, D full passes, a fixed point of all dimensions at once."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import click
import torch
from torch import Tensor

from benchmarks.sample import by_full_passes
from benchmarks.timing import CLOCKS, Comparison, Pace, interleave, publish
from nfbench.flows.flow import Flow
from nfbench.flows.maf import maf
from nfbench.nets.autoregress import FEW, full_passes, implicit, incremental
from nfbench.transforms.autoregressive import Autoregressive

TITLE = "Inverting a MAF"
INCREMENTAL, PLAIN = "incremental", "full passes"
FIXED, UNTRAINED = "fixed point", "fixed point, untrained"
TOLERANCE = 1e-6  # relative, in float32: where the fixed point stops
STEPS, BATCH, RATE = 300, 128, 1e-3  # of the training
IMPLICIT = "implicit"
HIDDEN, DIMENSIONS = (100, 100), (2, 3, 4, 6, 12, 43)  # of the comparison of gradients


@dataclass(frozen=True)
class Workload:
    """A MAF and how many rows of noise are inverted."""

    features: int
    layers: int
    hidden: Sequence[int]
    rows: int
    rounds: int

    @property
    def title(self) -> str:
        """What it is, in words."""
        network = f"MAF ({self.layers}), 2x{self.hidden[0]}"
        return f"{network}, D = {self.features}, {self.rows:,} rows"

    def flow(self) -> Flow:
        """With its initial weights."""
        return maf((self.features,), layers=self.layers, hidden=self.hidden, batch_norm=False)


WORKLOADS = (
    Workload(6, 5, (100, 100), 10_000, 7),
    Workload(43, 5, (100, 100), 1000, 7),
    Workload(63, 10, (512, 512), 1000, 3),
    Workload(784, 2, (512, 512), 100, 2),
)


def by_fixed_point(flow: Flow, z: Tensor, sweeps: list[int] | None = None) -> Tensor:
    """The flow's inverse, every layer by ``x <- f^-1(z; MADE(x))`` until x stands still.

    Dimension d is exact once those before it are, so D sweeps are enough for any weights.
    Appends the number of each layer's sweeps to ``sweeps``.
    """
    for part in reversed(flow.transform.parts):
        if not isinstance(part, Autoregressive):
            raise TypeError(f"flow: expected autoregressive layers, got {type(part).__name__}")
        x, n_sweeps, still = torch.zeros_like(z), 0, False
        while not still and n_sweeps < z.shape[1]:
            last, x = x, part.elementwise.inverse(z, part.made(x))[0]
            n_sweeps += 1
            still = bool(((x - last).abs().amax(1) <= TOLERANCE * x.abs().amax(1)).all())
        if sweeps is not None:
            sweeps.append(n_sweeps)
        z = x
    return z


def walks(n: int, features: int, device: str) -> Tensor:
    """Random walks of variance 1 at each step: each dimension depends strongly on the last."""
    index = torch.arange(1, features + 1, device=device)
    return torch.randn(n, features, device=device).cumsum(1) / index.sqrt()


def train(flow: Flow, features: int, device: str) -> None:
    """A few steps of maximum likelihood, after which dimensions depend on one another."""
    optimizer = torch.optim.Adam(flow.parameters(), lr=RATE, fused=True)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (-flow.log_prob(walks(BATCH, features, device)).mean()).backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
        optimizer.step()


def error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest value of its row."""
    return ((found - expected).abs().amax(1) / expected.abs().amax(1)).max().item()


def measure(workload: Workload, quick: bool, device: str) -> Comparison:
    """The three ways on a trained flow, and the fixed point on an untrained one too."""
    untrained = workload.flow().to(device).eval()
    flow = copy.deepcopy(untrained)
    train(flow, workload.features, device)
    z = torch.randn(workload.rows // (10 if quick else 1), workload.features, device=device)
    ways: dict[str, tuple[Flow, Callable[[Flow, Tensor], Tensor]]] = {
        INCREMENTAL: (flow, lambda flow, z: flow.transform.inverse(z)[0]),
        PLAIN: (flow, by_full_passes),
        FIXED: (flow, by_fixed_point),
        UNTRAINED: (untrained, by_fixed_point),
    }
    with torch.no_grad():
        remarks = {name: remark(name, *way, z) for name, way in ways.items()}
        calls = {
            name: lambda flow=flow, way=way: way(flow, z) for name, (flow, way) in ways.items()
        }
        seconds = interleave(calls, Pace.of(quick, workload.rounds), device=device)
    return Comparison(workload.title, INCREMENTAL, "ms", seconds, remarks)


def remark(name: str, flow: Flow, way: Callable[[Flow, Tensor], Tensor], z: Tensor) -> str:
    """How exact a way is, against the incremental inverse in float64, and its sweeps."""
    double = copy.deepcopy(flow).double()
    text = f"relative error {error(way(flow, z), double.transform.inverse(z.double())[0]):.0e}"
    if way is not by_fixed_point:
        return text
    sweeps: list[int] = []
    by_fixed_point(flow, z, sweeps)
    return f"{text}; {min(sweeps)} - {max(sweeps)} sweeps a layer"


def measure_gradients(features: int, quick: bool, device: str) -> Comparison:
    """The inverse of one layer with its gradient: implicit, and through D full passes."""
    (part,) = (
        maf((features,), layers=1, hidden=HIDDEN, batch_norm=False, init="near_zero")
        .to(device)
        .transform.parts
    )
    assert isinstance(part, Autoregressive)
    made, solve = part.made, part.solve
    z = torch.randn(BATCH, features, device=device)

    def implicitly() -> tuple[Tensor, Tensor]:
        return implicit(made, solve, z, None, incremental(made, solve, z)[0])

    def step(inverse: Callable[[], tuple[Tensor, Tensor]]) -> None:
        made.zero_grad()
        x, log_det = inverse()
        (x.square().sum() + log_det.sum()).backward()

    calls = {
        IMPLICIT: lambda: step(implicitly),
        PLAIN: lambda: step(lambda: full_passes(made, solve, z)),
    }
    title = f"One layer with its gradient, 2x{HIDDEN[0]}, D = {features}, {BATCH} rows"
    seconds = interleave(calls, Pace.of(quick, 5), device=device)
    shipped = f"taken up to D = {FEW}"
    return Comparison(title, IMPLICIT, "ms", seconds, {PLAIN: shipped})


@click.command(help=TITLE)
@click.option("--quick", is_flag=True, help="A smoke test: prints, writes nothing.")
@click.option("--device", type=click.Choice(sorted(CLOCKS)), default="cpu", show_default=True)
def run(quick: bool, device: str) -> None:
    """Every workload; the smaller ones if it is a smoke test."""
    workloads = WORKLOADS[:2] if quick else WORKLOADS

    def compare() -> list[Comparison]:
        found = [measure(workload, quick, device) for workload in workloads]
        return [*found, *(measure_gradients(d, quick, device) for d in DIMENSIONS)]

    publish("inverse", TITLE, compare, quick=quick, device=device)


if __name__ == "__main__":
    run()
