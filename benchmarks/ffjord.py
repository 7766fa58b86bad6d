"""Continuous flows: training steps, densities and samples against zuko and a plain adjoint.

All candidates have one network of the same weights, each as its library takes it. Gradients are
compared with those of a tight solve in float64, times with those of peers that measure the error
of a step in the same norm.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.ffjord_candidates import (
    ADJOINT,
    FEATURES,
    HIDDEN,
    OURS,
    OURS_MAX,
    PLAIN,
    PLAIN_MAX,
    TOLERANCE,
    ZUKO,
    Candidate,
    candidates,
    plain_flow,
    the_ode,
)
from benchmarks.inverse import walks
from benchmarks.timing import Comparison, Pace, command, interleave, verdict
from nfbench.flows.ffjord import ffjord
from nfbench.flows.flow import Flow

BATCH = 1000
STEPS, RATE = 300, 3e-3  # of the training before anything is measured
TIGHT = 1e-10  # tolerance of the reference
ROUNDS = 7
# What is aimed at: parts of a peer's time, and the relative error of the gradient.
OF_ZUKO, OF_PLAIN, DENSITY_OF_ZUKO, GRADIENT = 0.8, 0.5, 0.5, 1e-5


def bent(n: int) -> Tensor:
    """Random walks (n, D), each dimension bent by the next."""
    x = walks(n, FEATURES, "cpu")
    return x + 0.5 * x.roll(1, dims=1).square() - 0.5


def train() -> Flow:
    """A flow whose field has learned to bend: initial fields are solved in a few steps."""
    flow = ffjord(
        (FEATURES,),
        hidden=HIDDEN,
        layer="concat",
        activation="tanh",
        train_T=False,
        atol=TOLERANCE,
        rtol=TOLERANCE,
        gradient="replay",
        trace="exact",
    )
    optimizer = torch.optim.Adam(flow.parameters(), lr=RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (-flow.log_prob(bent(200)).mean()).backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
        optimizer.step()
    return flow


def gradient_errors(flow: Flow, flows: Mapping[str, Candidate], x: Tensor) -> dict[str, float]:
    """|g - g'| / |g'| of each gradient g, g' being that of a tight solve in float64."""
    exact = plain_flow(flow, exact=True, method="dopri8", tolerance=TIGHT)
    exact.module.double()
    exact.step(x.double())
    wanted, found = exact.gradient(), {}
    for name, each in flows.items():
        each.step(x)
        found[name] = ((each.gradient().double() - wanted).norm() / wanted.norm()).item()
    return found


def evaluations(
    flows: Mapping[str, Candidate], call: Callable[[Candidate], object]
) -> dict[str, str]:
    """How often each candidate evaluates its network in a call, in words."""
    found = {}
    for name, each in flows.items():
        each.evaluations()
        call(each)
        found[name] = f"{each.evaluations()} evaluations"
    return found


def traces_of(candidate: Candidate, call: Callable[[], object]) -> int:
    """How many divergences, or products with the Jacobian, our field evaluates in a call."""
    field, found = the_ode(candidate.module).field, []

    def counted(way: Callable[..., object]) -> Callable[..., object]:
        def call(*given: object) -> object:
            found.append(way)
            return way(*given)

        return call

    ways = ("divergence", "vjp")
    for name in ways:
        setattr(field, name, counted(getattr(field, name)))
    call()
    for name in ways:
        delattr(field, name)
    return len(found)


def training(flow: Flow, quick: bool, *, exact: bool) -> Comparison:
    """A step forwards and backwards of each candidate."""
    flows, x = candidates(flow, exact=exact), bent(rows(quick))
    for each in flows.values():
        each.module.train()
    remarks = evaluations(flows, lambda each: each.step(x))
    notes = []
    if exact:
        errors = gradient_errors(flow, flows, x)
        remarks = {name: f"{text}; gradient {errors[name]:.1e}" for name, text in remarks.items()}
        notes.append(
            verdict(
                f"{OURS_MAX}: a gradient within {GRADIENT:.0e} of that of a tight solve in "
                f"float64, relative ({errors[OURS_MAX]:.1e})",
                errors[OURS_MAX] <= GRADIENT,
            )
        )
    calls = {name: lambda each=each: each.step(x) for name, each in flows.items()}
    kind = "exact trace" if exact else "Hutchinson's estimate, Gaussian noise"
    result = timed(f"a training step, {kind}", calls, remarks, quick)
    judged = [
        at_most(result, OURS_MAX, ZUKO, OF_ZUKO),
        at_most(result, OURS_MAX, PLAIN_MAX, OF_PLAIN),
        at_most(result, OURS, PLAIN, OF_PLAIN),
    ]
    return replace(result, target="\n\n".join([*judged, *notes]))


@torch.no_grad()
def densities(flow: Flow, quick: bool) -> Comparison:
    """log p(x) with the exact trace."""
    flows = in_evaluation(candidates(flow, exact=True))
    x = bent(rows(quick))
    calls = {name: lambda each=each: each.log_prob(x) for name, each in flows.items()}
    remarks = evaluations(flows, lambda each: each.log_prob(x))
    result = timed("log-density, exact trace", calls, remarks, quick)
    return replace(result, target=at_most(result, OURS_MAX, ZUKO, DENSITY_OF_ZUKO))


@torch.no_grad()
def samples(flow: Flow, quick: bool) -> Comparison:
    """As many samples as a batch has rows."""
    flows, n = in_evaluation(candidates(flow, exact=True)), rows(quick)
    calls = {name: lambda each=each: each.sample(n) for name, each in flows.items()}
    remarks = evaluations(flows, lambda each: each.sample(n))
    n_traces = traces_of(flows[OURS], calls[OURS])
    result = timed("samples", calls, remarks, quick)
    text = f"no trace is evaluated ({n_traces} are)"
    return replace(result, target=verdict(text, n_traces == 0))


def in_evaluation(flows: dict[str, Candidate]) -> dict[str, Candidate]:
    """The candidates in evaluation; ours differ in training alone, so that one is enough."""
    del flows[ADJOINT]
    for each in flows.values():
        each.module.eval()
    return flows


def timed(
    what: str, calls: Mapping[str, Callable[[], object]], remarks: Mapping[str, str], quick: bool
) -> Comparison:
    title = f"{len(HIDDEN)}x{HIDDEN[0]}, D = {FEATURES}, {rows(quick):,} rows: {what}"
    return Comparison(title, OURS, "ms", interleave(calls, Pace.of(quick, ROUNDS)), remarks)


def rows(quick: bool) -> int:
    """How many are computed at once."""
    return BATCH // (10 if quick else 1)


def at_most(result: Comparison, ours: str, peer: str, target: float) -> str:
    """The verdict on a time of ours as a part of that of a peer with the same norm."""
    ratio = result.ratio(ours, peer)
    return verdict(f"{ours}: at most {target} of {peer} ({ratio:.2f} of it)", ratio <= target)


def check(flow: Flow) -> None:
    """Check that all candidates have one density.

    Raises:
        ValueError: if one differs.
    """
    x = bent(100)
    flows = candidates(flow, exact=True)
    with torch.no_grad():
        wanted = flows[OURS].log_prob(x)
        for name, each in flows.items():
            apart = (each.log_prob(x) - wanted).abs().max().item()
            if apart > 100 * TOLERANCE:
                raise ValueError(f"{name}: expected the density of {OURS}, differs by {apart:.1e}")


def compare(quick: bool) -> list[Comparison]:
    """Training both ways, densities, samples."""
    flow = train()
    check(flow)
    return [
        training(flow, quick, exact=True),
        training(flow, quick, exact=False),
        densities(flow, quick),
        samples(flow, quick),
    ]


if __name__ == "__main__":
    command("ffjord", "Continuous flows", compare)()
