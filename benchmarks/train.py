"""Training steps, densities and samples of whole flows against other libraries."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

import torch
from torch import Tensor

from benchmarks.peers import MAFS, REALNVPS, Candidate, nfbench_maf, nfbench_realnvp
from benchmarks.timing import Comparison, Pace, command, interleave, verdict
from nfbench.flat import flatten, tie_gradients

OURS = "nfbench"
RATE = 1e-5
POOL = 16  # batches that are drawn before the clock starts
TIE = 1.03  # closer than this, two candidates cannot be told apart here


@dataclass(frozen=True)
class Workload:
    """One architecture on data of one size."""

    title: str
    build: Callable[[int, int, Sequence[int]], Candidate]
    peers: Mapping[str, Callable[[int, int, Sequence[int]], Candidate]]
    features: int
    layers: int
    hidden: tuple[int, ...]
    batch: int
    samples: int = 0  # 0: sampling from a MAF has a benchmark of its own
    judged: bool = True

    def candidates(self) -> dict[str, Candidate]:
        """Ours first, then the peers'."""
        architecture = (self.features, self.layers, self.hidden)
        return {OURS: self.build(*architecture)} | {
            name: build(*architecture) for name, build in self.peers.items()
        }


WORKLOADS = (
    Workload("MAF (5), 2x100, D = 6", nfbench_maf, MAFS, 6, 5, (100, 100), 100),
    Workload("MAF (5), 2x100, D = 6", nfbench_maf, MAFS, 6, 5, (100, 100), 1024),
    Workload(
        "Real NVP (10), 2x100, D = 43", nfbench_realnvp, REALNVPS, 43, 10, (100, 100), 1024, 10_000
    ),
    Workload("MAF (10), 2x512, D = 63", nfbench_maf, MAFS, 63, 10, (512, 512), 512, judged=False),
)


def batches(workload: Workload) -> Callable[[], Tensor]:
    """The same few standard normal batches, over and over, each time as another tensor object.

    pyro answers from its cache when it is given the very object that it was given last.
    """
    drawn = torch.randn(POOL, workload.batch, workload.features)
    turn = count()
    return lambda: drawn[next(turn) % POOL]


def training(
    candidate: Candidate, draw: Callable[[], Tensor], *, flat: bool
) -> Callable[[], None]:
    """A training step with fused Adam over one vector, as the harness has it, or over a list."""
    parameters = [each for each in candidate.module.parameters() if each.requires_grad]
    trained = [flatten(parameters)] if flat else parameters
    optimizer = torch.optim.Adam(trained, lr=RATE, fused=True)
    if flat:
        tie_gradients(trained[0], parameters)

    def step() -> None:
        optimizer.zero_grad(set_to_none=not flat)
        (-candidate.log_prob(draw()).mean()).backward()
        optimizer.step()

    return step


def measure(workload: Workload, quick: bool) -> list[Comparison]:
    """The comparisons of one workload: training steps, densities, samples."""
    candidates, draw = workload.candidates(), batches(workload)
    for candidate in candidates.values():
        check(candidate, draw())
    pace = Pace.of(quick, 15 if workload.judged else 7)
    remarks = {
        name: f"{candidate.n_parameters:,} parameters; {candidate.remark}"
        for name, candidate in candidates.items()
    }

    def compared(what: str, calls: Mapping[str, Callable[[], object]], pace: Pace) -> Comparison:
        seconds = interleave(calls, pace)
        return Comparison(f"{workload.title}: {what}", OURS, "ms", seconds, remarks)

    twin = workload.candidates()[OURS]
    listed = f"{OURS}, {len(list(twin.module.parameters()))} tensors"
    remarks[listed] = "the same, fused Adam over a list of parameters as for the peers"
    steps = {OURS: training(candidates[OURS], draw, flat=True)}
    steps[listed] = training(twin, draw, flat=False)
    steps |= {name: training(candidates[name], draw, flat=False) for name in workload.peers}
    results = [judged(compared(f"a training step, batch {workload.batch}", steps, pace), workload)]
    for candidate in candidates.values():
        candidate.module.eval()
    with torch.no_grad():
        calls = {
            name: lambda each=each: each.log_prob(draw()) for name, each in candidates.items()
        }
        results.append(compared(f"log-density of {workload.batch} rows", calls, pace))
        if n := workload.samples // (10 if quick else 1):
            calls = {name: lambda each=each: each.sample(n) for name, each in candidates.items()}
            results.append(compared(f"{n:,} samples", calls, Pace.of(quick, 9)))
    return results


def check(candidate: Candidate, x: Tensor) -> None:
    """Refuse to time what does not compute a density of each row, or a sample.

    Raises:
        ValueError: if shapes are wrong or values are not finite.
    """
    with torch.no_grad():
        log_prob, sample = candidate.log_prob(x), candidate.sample(2)
    if log_prob.shape != x.shape[:1] or sample.shape != (2, *x.shape[1:]):
        raise ValueError(
            f"{candidate.remark}: got shapes {tuple(log_prob.shape)}, {tuple(sample.shape)}"
        )
    if not (log_prob.isfinite().all() and sample.isfinite().all()):
        raise ValueError(f"{candidate.remark}: got values that are not finite")


def judged(result: Comparison, workload: Workload) -> Comparison:
    """The comparison with its verdict: no slower than the fastest peer."""
    if not workload.judged:
        return result
    fastest = min(workload.peers, key=result.ratio)
    ratio = result.ratio(OURS, fastest)
    text = f"no slower than the fastest peer, {fastest} ({ratio:.2f} of it; to {TIE} is a tie)"
    return replace(result, target=verdict(text, ratio <= TIE))


def compare(quick: bool) -> list[Comparison]:
    """All workloads."""
    return [comparison for workload in WORKLOADS for comparison in measure(workload, quick)]


if __name__ == "__main__":
    command("train", "Flows against other libraries", compare)()
