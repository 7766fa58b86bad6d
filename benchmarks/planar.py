"""Training steps of planar and radial flows against other libraries."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks.peers import Candidate, normflows_flow, pyro_flow
from benchmarks.timing import Comparison, Pace, command, interleave, verdict
from benchmarks.train import OURS, POOL, training
from nfbench.flows import FLOWS

FEATURES, LAYERS, BATCH = 2, 32, 512
TARGET = 0.4  # of the fastest peer's time


def nfbench_flow(name: str) -> Candidate:
    """Closed form from data to noise; the parameters of all layers in three tensors."""
    flow = FLOWS[name]([FEATURES], layers=LAYERS)
    return Candidate(flow, flow.log_prob, flow.sample, "samples by the inverse")


def normflows_stack(name: str) -> Candidate:
    """Its layers generate in closed form and lack the inverse: reversed, the density is fast."""
    from normflows import flows

    layer = {"planar": flows.Planar, "radial": flows.Radial}[name]
    parts = [flows.base.Reverse(layer((FEATURES,))) for _ in range(LAYERS)]
    remark = "layers reversed; cannot sample then"
    return replace(normflows_flow(FEATURES, parts, ""), sample=refuse, remark=remark)


def pyro_stack(name: str) -> Candidate:
    """Its transforms map data to noise here; they cannot be inverted but from their cache."""
    from pyro.distributions import transforms

    layer = {"planar": transforms.Planar, "radial": transforms.Radial}[name]
    flow = pyro_flow(FEATURES, [layer(FEATURES) for _ in range(LAYERS)], "cannot sample then")
    return replace(flow, sample=refuse)


def refuse(n: int) -> Tensor:
    """What stands for samples that a library cannot draw."""
    raise NotImplementedError("no inverse")


PEERS = {"normflows": normflows_stack, "pyro": pyro_stack}


def measure(name: str, quick: bool) -> list[Comparison]:
    """Steps of maximum likelihood, and densities, of ``name``: planar or radial."""
    flows = {OURS: nfbench_flow(name)} | {peer: build(name) for peer, build in PEERS.items()}
    for flow in flows.values():
        randomize(flow.module)
    remarks = {
        key: f"{flow.n_parameters} parameters; {flow.remark}" for key, flow in flows.items()
    }
    drawn = torch.randn(POOL, BATCH, FEATURES).unbind(0)
    state = {"next": 0}

    def draw() -> Tensor:
        state["next"] += 1
        return drawn[state["next"] % POOL]

    def compared(what: str, calls: dict[str, Callable[[], object]]) -> Comparison:
        title = f"{name.capitalize()} ({LAYERS}), D = {FEATURES}: {what}"
        return Comparison(title, OURS, "ms", interleave(calls, Pace.of(quick)), remarks)

    steps = {key: training(flow, draw, flat=key == OURS) for key, flow in flows.items()}
    result = compared(f"a training step, batch {BATCH}", dict(steps))
    fastest = min(PEERS, key=result.ratio)
    ratio = result.ratio(OURS, fastest)
    text = f"at most {TARGET} of the fastest peer, {fastest} ({ratio:.2f} of it)"
    results = [replace(result, target=verdict(text, ratio <= TARGET))]
    with torch.no_grad():
        densities = {key: lambda each=flow: each.log_prob(draw()) for key, flow in flows.items()}
        results.append(compared(f"log-density of {BATCH} rows", densities))
        samples = {OURS: lambda: flows[OURS].sample(BATCH)}
        return [*results, compared(f"{BATCH} samples", samples)]


@torch.no_grad()
def randomize(module: nn.Module) -> None:
    """Moderate parameters of every layer, the same spread for all libraries."""
    for parameter in module.parameters():
        parameter.normal_(0, 0.3)


def compare(quick: bool) -> list[Comparison]:
    """Planar, then radial."""
    return [comparison for name in ("planar", "radial") for comparison in measure(name, quick)]


if __name__ == "__main__":
    command("planar", "Planar and radial flows against other libraries", compare)()
