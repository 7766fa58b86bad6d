"""The continuous flows that are compared, one network of the same weights in each: ours and peers.

Each takes the network as its library does, and counts how often it is called.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torchdiffeq import odeint, odeint_adjoint

from nfbench.distributions.base import StandardNormal
from nfbench.flows.flow import Flow
from nfbench.nets.mlp_field import MLPField
from nfbench.transforms.ode import ODE, count_nfe
from nfbench.transforms.tolerance import Tolerance

OURS, ADJOINT, ZUKO, PLAIN = "nfbench, replay", "nfbench, adjoint", "zuko", "odeint_adjoint"
OURS_MAX, PLAIN_MAX = f"{OURS}, max norm", f"{PLAIN}, max norm"  # that of zuko's steps
FEATURES, HIDDEN = 6, (64, 64, 64)
TOLERANCE = 1e-5  # relative and absolute, of all candidates


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
