"""Continuous flows: training steps, densities and samples against zuko and a plain adjoint.

All candidates have one network of the same weights, each as its library takes it. Gradients are
compared with those of a tight solve in float64, times with those of peers that measure the error
of a step in the same norm.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torchdiffeq import odeint, odeint_adjoint

from benchmarks.inverse import walks
from benchmarks.timing import Comparison, Pace, command, interleave, verdict
from nfbench.distributions.base import StandardNormal
from nfbench.flows.ffjord import ffjord
from nfbench.flows.flow import Flow
from nfbench.nets.mlp_field import MLPField
from nfbench.transforms.ode import ODE, count_nfe
from nfbench.transforms.tolerance import Tolerance

OURS, ADJOINT, ZUKO, PLAIN = "nfbench, replay", "nfbench, adjoint", "zuko", "odeint_adjoint"
OURS_MAX, PLAIN_MAX = f"{OURS}, max norm", f"{PLAIN}, max norm"  # that of zuko's steps
FEATURES, HIDDEN, BATCH = 6, (64, 64, 64), 1000
TOLERANCE = 1e-5  # relative and absolute, of all candidates
STEPS, RATE = 300, 3e-3  # of the training before anything is measured
TIGHT = 1e-10  # tolerance of the reference
ROUNDS = 7
# What is aimed at: parts of a peer's time, and the relative error of the gradient.
OF_ZUKO, OF_PLAIN, DENSITY_OF_ZUKO, GRADIENT = 0.8, 0.5, 0.5, 1e-5


class PlainNet(nn.Module):
    """Linear layers and tanh of torch's parts; the time is one input more of each layer."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i + 1, o) for i, o in pairwise(widths))
        self.calls = 0

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        self.calls += 1
        for index, layer in enumerate(self.layers):
            x = torch.tanh(x) if index else x
            x = layer(torch.cat([x, t.expand(len(x), 1)], dim=1))
        return x


class PlainSystem(nn.Module):
    """The velocity and its divergence as they are usually written: D products with the Jacobian.

    With noise e it is the estimate e^T J e, of one product.
    """

    def __init__(self, net: PlainNet, noise: Tensor | None) -> None:
        super().__init__()
        self.net, self.noise = net, noise

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = state[0].requires_grad_()
            velocity = self.net(t, x)
            if self.noise is not None:
                (row,) = torch.autograd.grad(velocity, x, self.noise, create_graph=True)
                return velocity, (row * self.noise).sum(1)
            divergence = torch.zeros(len(x), dtype=x.dtype)
            for d in range(x.shape[1]):
                (row,) = torch.autograd.grad(velocity[:, d].sum(), x, create_graph=True)
                divergence = divergence + row[:, d]
        return velocity, divergence


class PlainCNF(nn.Module):
    """A continuous flow from torchdiffeq's ``odeint_adjoint``, and nothing else."""

    def __init__(
        self, net: PlainNet, *, exact: bool, method: str, tolerance: float, norm: str
    ) -> None:
        super().__init__()
        self.net, self.exact = net, exact
        self.settings = {"method": method, "atol": tolerance, "rtol": tolerance}
        if norm == "max":
            self.settings["options"] = {"norm": largest}
        self.base = StandardNormal([FEATURES])

    def forward(self, x: Tensor) -> Tensor:
        """log p(x), (B,)."""
        system = PlainSystem(self.net, None if self.exact else torch.randn_like(x))
        state, times = (x, torch.zeros(len(x), dtype=x.dtype)), torch.tensor([0.0, 1.0]).to(x)
        z, log_det = (part[1] for part in odeint_adjoint(system, state, times, **self.settings))
        return self.base.log_prob(z) + log_det

    def sample(self, n: int) -> Tensor:
        """The ODE of the points alone, which spares it what the others spare too."""
        return odeint(self.net, self.base.sample(n), torch.tensor([1.0, 0.0]), **self.settings)[1]


def largest(parts: Tensor | Sequence[Tensor]) -> Tensor:
    """The largest absolute value in a state, or in the parts of one."""
    parts = [parts] if isinstance(parts, Tensor) else parts
    return torch.stack([part.abs().max() for part in parts]).max()


@dataclass(frozen=True)
class Candidate:
    """A continuous flow: log p(x) of rows (B, D), n samples, and the evaluations since last."""

    module: nn.Module
    log_prob: Callable[[Tensor], Tensor]
    sample: Callable[[int], object]
    evaluations: Callable[[], int]
    gradient: Callable[[], Tensor]

    def step(self, x: Tensor) -> None:
        """Forwards and backwards."""
        self.module.zero_grad(set_to_none=True)
        (-self.log_prob(x).mean()).backward()


def nfbench_flow(flow: Flow, gradient: str, *, exact: bool, norm: str = "rms") -> Candidate:
    """A copy of the flow whose gradient, trace and norm of the steps are these."""
    flow = copy.deepcopy(flow)
    ode = the_ode(flow)
    ode.gradient, ode.trace = gradient, "exact" if exact else "hutchinson"
    ode.tolerance = Tolerance(TOLERANCE, TOLERANCE, norm)

    def evaluations() -> int:
        return sum(n for _, n in count_nfe(flow, reset=True).values())

    return Candidate(flow, flow.log_prob, flow.sample, evaluations, lambda: ours_in_order(ode))


def plain_flow(
    flow: Flow,
    *,
    exact: bool,
    method: str = "dopri5",
    tolerance: float = TOLERANCE,
    norm: str = "rms",
) -> Candidate:
    """torchdiffeq around the plain network."""
    net = plain_net(flow)
    cnf = PlainCNF(net, exact=exact, method=method, tolerance=tolerance, norm=norm)
    return Candidate(cnf, cnf, cnf.sample, lambda: pop_calls(net), lambda: in_order(net))


def zuko_flow(flow: Flow, *, exact: bool) -> Candidate:
    """zuko's CNF, with the plain network, and the time as a number, in place of its own."""
    from zuko.flows import CNF

    net = plain_net(flow)
    cnf = CNF(FEATURES, atol=TOLERANCE, rtol=TOLERANCE, exact=exact)
    cnf.transform.ode = net
    cnf.transform.f = lambda t, x, c=None: net(t, x)
    return Candidate(
        cnf,
        lambda x: cnf().log_prob(x),
        lambda n: cnf().sample((n,)),
        lambda: pop_calls(net),
        lambda: in_order(net),
    )


def the_ode(flow: nn.Module) -> ODE:
    """The one ODE of a flow."""
    (ode,) = (part for part in flow.modules() if isinstance(part, ODE))
    return ode


def plain_net(flow: Flow) -> PlainNet:
    """The network of a flow in torch's parts."""
    field = the_ode(flow).field
    assert isinstance(field, MLPField)
    net, layers = PlainNet([FEATURES, *HIDDEN, FEATURES]), field.layers
    times, biases = layers.each(layers.time), layers.each(layers.bias)
    with torch.no_grad():
        for part, *ours in zip(net.layers, layers.weights, times, biases, strict=True):
            weight, time, bias = ours
            part.weight.copy_(torch.cat([weight, time.unsqueeze(1)], dim=1))
            part.bias.copy_(bias)
    return net


def ours_in_order(ode: ODE) -> Tensor:
    """The gradient of our network in one vector, in the order of the plain one."""
    layers = ode.field.layers
    times, biases = layers.each(layers.time.grad), layers.each(layers.bias.grad)
    pairs = [
        [torch.cat([weight.grad, time.unsqueeze(1)], dim=1).flatten(), bias]
        for weight, time, bias in zip(layers.weights, times, biases, strict=True)
    ]
    return torch.cat([each for pair in pairs for each in pair])


def in_order(net: PlainNet) -> Tensor:
    """The gradient of a plain network in one vector."""
    return torch.cat([parameter.grad.flatten() for parameter in net.parameters()])


def pop_calls(net: PlainNet) -> int:
    """How often the network was called since it was last asked."""
    found, net.calls = net.calls, 0
    return found


def candidates(flow: Flow, *, exact: bool) -> dict[str, Candidate]:
    """All of them, of the same weights."""
    return {
        OURS: nfbench_flow(flow, "replay", exact=exact),
        OURS_MAX: nfbench_flow(flow, "replay", exact=exact, norm="max"),
        ADJOINT: nfbench_flow(flow, "adjoint", exact=exact),
        ZUKO: zuko_flow(flow, exact=exact),
        PLAIN: plain_flow(flow, exact=exact),
        PLAIN_MAX: plain_flow(flow, exact=exact, norm="max"),
    }


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
