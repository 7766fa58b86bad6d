"""A field whose weights differ from row to row, and FFJORD on it as a posterior."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from ode_cases import Generic
from oracles import check_contract, close, jacobians, randomize
from torch import Tensor
from torch.func import jacrev, vmap

import nfbench.nets.low_rank_field
from nfbench.flows.ffjord import ffjord
from nfbench.flows.flow import Flow
from nfbench.nets.low_rank_field import LowRankField
from nfbench.nets.mlp_field import SLOPES
from nfbench.nets.time_layers import LAYERS
from nfbench.transforms.contextual import Contextual
from nfbench.transforms.normalize import BatchNorm
from nfbench.transforms.ode import ODE
from nfbench.transforms.whiten import Whiten

pytestmark = pytest.mark.usefixtures("float64")

D, B, RANK, FEATURES = 4, 3, 2, 5
HIDDEN = (5, 6)


def field(**options: object) -> LowRankField:
    built = LowRankField(D, **{"hidden": HIDDEN, "rank": RANK, **options})
    randomize(built)
    return built


def given(net: LowRankField) -> Tensor:
    """So small that no softplus is taken for linear, as torch's is above 20."""
    return 0.5 * torch.randn(B, net.n_numbers)


def row_by_row(net: LowRankField, t: Tensor, x: Tensor, numbers: Tensor) -> Tensor:
    """Each row through a network of its own, W + U V^T written out (concat: b + v t)."""
    widths = [D, *HIDDEN, D]
    out = []
    for row, own in zip(x, numbers, strict=True):
        rest, factors = own, []
        for width in [*widths[1:], *widths[:-1]]:
            factors.append(rest[: width * RANK].reshape(width, RANK))
            rest = rest[width * RANK :]
        h, start = row, 0
        for i, (_, n_out) in enumerate(pairwise(widths)):
            weight = net.layers.weights[i] + factors[i] @ factors[i + len(widths) - 1].T
            part = slice(start, start + n_out)
            bias = net.layers.bias[part] + net.layers.time[part] * t + rest[part]
            h = weight @ (getattr(F, net.activation)(h) if i else h) + bias
            start += n_out
        assert start == len(rest)
        out.append(h)
    return torch.stack(out)


@pytest.mark.parametrize("activation", SLOPES)
def test_velocities_are_those_of_a_network_for_each_row(activation: str) -> None:
    net, t, x = field(activation=activation), torch.rand(()), torch.randn(B, D)
    numbers = given(net)
    expected = row_by_row(net, t, x, numbers)
    close(net(t, x, numbers), expected)
    close(net.vjp(t, x, torch.randn(2, B, D), numbers)[0], expected)
    close(net.divergence(t, x, None, numbers)[0], expected)
    close(net.divergence(t, x, torch.randn(1, B, D), numbers)[0], expected)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("hidden", [(), (5,), (5, 6, 7)])
@pytest.mark.parametrize("room", [1, 2**16])
def test_derivatives_are_those_of_the_jacobian(
    layer: str, hidden: tuple[int, ...], room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nfbench.nets.low_rank_field, "IN_CACHE", room)
    net = field(layer=layer, hidden=hidden)
    t, x, numbers = torch.rand(()), torch.randn(B, D), given(net)
    jacobian = jacobians(lambda rows: net(t, rows, numbers), x)
    close(net.divergence(t, x, None, numbers)[1], jacobian.diagonal(dim1=1, dim2=2).sum(1))
    probes = torch.randn(2, B, D)
    rows = torch.einsum("kbi,bij->kbj", probes, jacobian)
    close(net.vjp(t, x, probes, numbers)[1], rows)
    estimate = net.divergence(t, x, probes, numbers)[1]
    close(estimate, (rows * probes).sum(2).mean(0))


@pytest.mark.parametrize("n_probes", [0, 2])
@pytest.mark.parametrize("activation", SLOPES)
def test_gradients_of_a_divergence_by_hand_are_those_of_autograd(
    n_probes: int, activation: str
) -> None:
    net, t, x = field(activation=activation), torch.rand(()), torch.randn(B, D)
    numbers = given(net).requires_grad_()
    probes = torch.randn(n_probes, B, D) if n_probes else None
    leaves = [x.requires_grad_(), numbers, *net.parameters()]
    found = []
    for way in (net, Generic(net)):
        velocity, divergence = way.divergence(t, x, probes, numbers)
        loss = (velocity * torch.linspace(1, 2, D)).sum() + divergence.square().sum()
        found.append(torch.autograd.grad(loss, leaves))
    for mine, expected in zip(*found, strict=True):
        close(mine, expected)
        assert expected.any()


def test_the_initial_numbers_change_nothing_and_have_a_gradient() -> None:
    net, t, x = field(), torch.rand(()), torch.randn(B, D)
    numbers = net.initial().expand(B, -1).clone().requires_grad_()
    alone = net(t, x, torch.zeros_like(numbers))
    close(net(t, x, numbers), alone)
    (gradient,) = torch.autograd.grad(net(t, x, numbers).square().sum(), numbers)
    lefts = sum(net.sizes[: len(HIDDEN) + 1])
    assert (gradient[:, :lefts] != 0).all()
    wide = LowRankField(64, hidden=(256,), rank=8)
    rights = wide.initial()[wide.sizes[0] + wide.sizes[1] : -wide.sizes[-1]]
    v = rights[: wide.sizes[2]].view(64, 8)
    assert (torch.randn(1000, 64) @ v).std().item() == pytest.approx(1, abs=0.15)


# FFJORD -----------------------------------------------------------------------------------------

TIGHT = {"T": 0.5, "train_T": False, "atol": 1e-9, "rtol": 1e-9, "trace": "exact"}
STEPS = 30  # of the fixed-step reference, whose error is then below 1e-6


def posterior(**options: object) -> Flow:
    flow = ffjord(
        [D],
        context_features=FEATURES,
        amortized_rank=RANK,
        hidden=HIDDEN,
        layer="concat",
        activation="softplus",
        **{**TIGHT, **options},
    )
    randomize(flow, 0.5)
    return flow


def test_each_block_has_numbers_linear_in_the_context_computed_once_a_solve() -> None:
    flow = posterior(blocks=2)
    calls = []
    for part in flow.transform.parts:
        assert isinstance(part, Contextual)
        assert isinstance(part.transform, ODE)
        assert part.net.weight.shape == (FEATURES, part.transform.field.n_numbers)
        part.net.register_forward_hook(lambda *_: calls.append(1))
    h = torch.randn(B, FEATURES)
    with torch.no_grad():
        flow.transform.inverse(torch.randn(B, D), h)
    assert len(calls) == 2
    first = flow.transform.parts[0].net
    numbers = first.value + h @ first.weight
    close(first(h), numbers)


def runge_kutta(flow: Flow, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Noise -> data by classical steps of a fixed size, the trace of each row's own Jacobian."""
    (part,) = flow.transform.parts
    net = part.transform.field
    numbers = part.net.value + h @ part.net.weight

    def slope(t: float, x: Tensor) -> tuple[Tensor, Tensor]:
        time = torch.tensor(t)

        def one(row: Tensor, own: Tensor) -> Tensor:
            return row_by_row(net, time, row[None], own[None])[0]

        jacobian = vmap(jacrev(one))(x, numbers)
        return row_by_row(net, time, x, numbers), jacobian.diagonal(dim1=1, dim2=2).sum(1)

    step, t = -TIGHT["T"] / STEPS, TIGHT["T"]
    log_det = torch.zeros(len(z))
    for _ in range(STEPS):
        k1, d1 = slope(t, z)
        k2, d2 = slope(t + step / 2, z + step / 2 * k1)
        k3, d3 = slope(t + step / 2, z + step / 2 * k2)
        k4, d4 = slope(t + step, z + step * k3)
        z = z + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        log_det = log_det + step / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
        t += step
    return z, log_det


def test_gradients_noise_to_data_are_those_of_a_fixed_step_solver() -> None:
    flow = posterior()
    (part,) = flow.transform.parts
    z = torch.randn(2, D, requires_grad=True)
    h = torch.randn(2, FEATURES, requires_grad=True)
    leaves = [z, h, *flow.transform.parameters()]

    def results(x: Tensor, log_det: Tensor) -> list[Tensor]:
        loss = (x.sin() * torch.linspace(1, 2, D)).sum() - (log_det * torch.arange(1, 3)).sum()
        return [x, log_det, *torch.autograd.grad(loss, leaves)]

    expected = results(*runge_kutta(flow, z, h))
    for part.transform.gradient in ("adjoint", "autograd", "replay"):
        for mine, exact in zip(results(*flow.transform.inverse(z, h)), expected, strict=True):
            assert exact.any()
            torch.testing.assert_close(mine, exact, rtol=1e-5, atol=1e-6)


def test_the_contract_is_kept_with_amortized_weights() -> None:
    flow = posterior(T=0.2, atol=1e-11, rtol=1e-11, gradient="replay").eval()
    x, z, h = torch.randn(2, D), torch.randn(2, D), torch.randn(2, FEATURES)
    check_contract(flow.transform, x, z, h)
    assert flow.likelihood == "exact"
    close(flow.transform.generate(z, h), flow.transform.inverse(z, h)[0])
    (moved,) = (points for _, points in flow.transform.steps(z, h))
    close(moved, flow.transform.inverse(z, h)[0])


@pytest.mark.parametrize("n", [0, 1])
def test_batches_of_one_and_none(n: int) -> None:
    flow, h = posterior(gradient="replay"), torch.randn(n, FEATURES)
    assert flow.log_prob(torch.randn(n, D), h).shape == (n,)
    assert flow.sample(n, h).shape == (n, D)


def test_batch_norm_stands_beside() -> None:
    parts = posterior(batch_norm=True).transform.parts
    assert [type(part) for part in parts] == [BatchNorm, Contextual, BatchNorm]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="amortized_rank: expected 0 without a context"):
        ffjord([D], amortized_rank=3)
    with pytest.raises(ValueError, match="amortized_rank: expected at least 0, got -1"):
        ffjord([D], context_features=FEATURES, amortized_rank=-1)
    with pytest.raises(ValueError, match="activation: expected one of softplus, tanh; got 'relu'"):
        LowRankField(D, hidden=(3,), rank=1, activation="relu")
    with pytest.raises(ValueError, match="layer: expected one of"):
        LowRankField(D, hidden=(3,), rank=1, layer="hypernet")
    with pytest.raises(ValueError, match=r"expected a tensor \(B, 5\), got none"):
        posterior().log_prob(torch.randn(2, D))
    with pytest.raises(ValueError, match="Contextual: expected a transform without data stat"):
        Contextual(Whiten(D), torch.nn.Identity())
