"""Neural spline flows, inverse autoregressive flow and Glow: what their recipes promise."""

import pytest
import torch
from oracles import close, randomize

from nfbench.flows.flow import Flow
from nfbench.flows.glow import glow
from nfbench.flows.iaf import iaf
from nfbench.flows.maf import maf
from nfbench.flows.nsf import nsf
from nfbench.nets.autoregress import full_passes, incremental
from nfbench.nets.made import MADE
from nfbench.nets.mlp import MLP
from nfbench.transforms.actnorm import ActNorm
from nfbench.transforms.autoregressive import Autoregressive
from nfbench.transforms.coupling import Coupling
from nfbench.transforms.elementwise import Affine
from nfbench.transforms.lu import LULinear
from nfbench.transforms.permute import Permute

pytestmark = pytest.mark.usefixtures("float64")

KINDS = pytest.mark.parametrize("kind", ["coupling", "autoregressive"])


def small_nsf(kind: str, **arguments: object) -> Flow:
    flow = nsf([5], kind=kind, layers=3, hidden=20, bins=5, **arguments)
    randomize(flow)
    return flow


@KINDS
@pytest.mark.parametrize("n_context", [0, 2])
def test_fast_sampling_gives_what_full_passes_give(kind: str, n_context: int) -> None:
    flow = small_nsf(kind, context_features=n_context)
    z, given = torch.randn(50, 5), torch.randn(50, n_context) if n_context else None
    plain = flow.transform.inverse(z, given)
    with torch.no_grad():
        fast = flow.transform.inverse(z, given)
    assert plain[0].requires_grad and not fast[0].requires_grad
    close(fast[0], plain[0])
    close(fast[1], plain[1])
    close(flow.transform(fast[0], given)[0], z)


@KINDS
def test_each_layer_is_a_permutation_a_linear_map_and_a_spline(kind: str) -> None:
    parts = [type(part) for part in small_nsf(kind).transform.parts]
    spline = {"coupling": Coupling, "autoregressive": Autoregressive}[kind]
    assert parts == [Permute, LULinear, spline] * 3 + [Permute, LULinear]


def test_couplings_map_every_second_half() -> None:
    couplings = [p for p in small_nsf("coupling").transform.parts if isinstance(p, Coupling)]
    assert [(c.swap, c.conditioner.out_features) for c in couplings] == [
        (True, 3),
        (False, 2),
        (True, 3),
    ]


@KINDS
def test_affine_maps_take_the_place_of_the_splines(kind: str) -> None:
    flow, other = small_nsf(kind, elementwise="affine"), small_nsf(kind)
    kinds = [[type(part) for part in f.transform.parts] for f in (flow, other)]
    assert kinds[0] == kinds[1]
    inner = [p.elementwise for p in flow.transform.parts if hasattr(p, "elementwise")]
    assert [type(each) for each in inner] == [Affine] * 3
    x = torch.randn(6, 5)
    z, log_det = flow.transform(x)
    close(flow.transform.inverse(z)[0], x)
    jacobian = torch.autograd.functional.jacobian(lambda x: flow.transform(x)[0].sum(0), x)
    close(log_det, jacobian.movedim(1, 0).det().abs().log())


@KINDS
def test_affine_scales_start_near_the_sigmoid_of_two(kind: str) -> None:
    """nflows' couplings have sigmoid(a + 2) + 1e-3: each dimension is mapped in 5 or 10 layers."""
    flow = nsf([4], kind=kind, elementwise="affine", layers=10, init="near_zero", hidden=32)
    _, log_det = flow.transform(torch.randn(10, 4))
    n_maps = {"coupling": 10 * 2, "autoregressive": 10 * 4}[kind]
    expected = torch.full((10,), n_maps * torch.sigmoid(torch.tensor(2.0)).log().item())
    torch.testing.assert_close(log_det, expected, rtol=0.05, atol=0)


@KINDS
def test_dropout_is_for_training_alone(kind: str) -> None:
    flow, x = small_nsf(kind, dropout=0.5), torch.randn(4, 5)
    assert not torch.equal(flow.train().log_prob(x), flow.log_prob(x))
    assert torch.equal(flow.eval().log_prob(x), flow.log_prob(x))
    without = small_nsf(kind)
    without.load_state_dict(flow.state_dict())
    assert torch.equal(flow.log_prob(x), without.log_prob(x))


@KINDS
def test_near_zero_start_is_near_a_rotation(kind: str) -> None:
    flow, x = nsf([5], kind=kind, init="near_zero", hidden=32), torch.randn(100, 5)
    z, log_det = flow.transform(x)
    assert (z.norm(dim=1) - x.norm(dim=1)).abs().max() < 0.1
    assert log_det.abs().max() < 0.1


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"kind: expected 'coupling' or 'auto.*got 'spline'"):
        nsf([5], kind="spline")


def test_an_unknown_elementwise_map_is_refused() -> None:
    with pytest.raises(ValueError, match=r"elementwise: expected 'rational_.*got 'cubic'"):
        nsf([5], elementwise="cubic")


def test_residual_network_adds_its_blocks_to_what_it_has() -> None:
    net = MLP(3, 2, hidden=(8,) * 5, residual=True, activation="tanh", context_features=1)
    randomize(net)
    x, given = torch.randn(6, 3), torch.randn(6, 1)
    (w0, w1, w2, w3, w4, w5), (b0, b1, b2, b3, b4, b5) = net.weights, net.biases
    h = torch.cat([x, given], 1) @ w0.T + b0
    h = h + torch.tanh(torch.tanh(h) @ w1.T + b1) @ w2.T + b2
    h = h + torch.tanh(torch.tanh(h) @ w3.T + b3) @ w4.T + b4
    close(net(x, given)[0], h @ w5.T + b5)


@pytest.mark.parametrize("hidden", [(8, 8), (8, 8, 9)])
@pytest.mark.parametrize("build", [lambda **kw: MLP(3, 2, **kw), lambda **kw: MADE(3, **kw)])
def test_blocks_of_other_shapes_are_refused(build: type, hidden: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="odd number of layers of one width"):
        build(hidden=hidden, residual=True)


@pytest.mark.parametrize("init", ["paper", "near_zero"])
def test_residual_blocks_start_almost_without_effect(init: str) -> None:
    net = MLP(30, 4, hidden=(64,) * 5, residual=True, init=init)
    largest = [weight.abs().max().item() for weight in net.weights]
    last = {"paper": 1.0, "near_zero": 0.01}[init] * 64**-0.5
    expected = [30**-0.5, 64**-0.5, 1e-3, 64**-0.5, 1e-3, last]
    assert largest == pytest.approx(expected, rel=0.05)


def test_iaf_is_maf_turned_round() -> None:
    arguments = {"layers": 3, "hidden": (16, 16), "scale": "sigmoid"}
    flow, other = iaf([4], activation="relu", **arguments), maf([4], batch_norm=False, **arguments)
    randomize(flow)
    other.load_state_dict(
        {
            key.replace("transform.transform.", "transform."): v
            for key, v in flow.state_dict().items()
        }
    )
    z = torch.randn(7, 4)
    close(flow.transform.inverse(z)[0], other.transform(z)[0])
    with torch.no_grad():
        fast = flow.log_prob(z)
    close(fast, flow.log_prob(z))


def test_iaf_gates_are_open_at_the_start() -> None:
    flow, z = iaf([4], layers=1, hidden=(16,), init="near_zero"), torch.randn(7, 4)
    x, _ = flow.transform.inverse(z)
    torch.testing.assert_close(x, torch.sigmoid(torch.tensor(2.0)) * z, rtol=0.1, atol=0.1)


def test_first_batch_of_glow_is_normalized_layer_by_layer() -> None:
    flow, x = glow([4], layers=3, hidden=(8,)).train(), torch.randn(200, 4).cumsum(1) * 5 + 9
    flow.log_prob(x)
    for part in flow.transform.parts:
        x, _ = part(x)
        if isinstance(part, ActNorm):
            close(x.mean(0), torch.zeros(4))
            close(x.std(0, correction=0), torch.ones(4))


@pytest.mark.parametrize(
    ("mixing", "n_linear", "n_orders"),
    [("linear", 3, 3), ("lu", 3, 0), ("reverse", 0, 3), ("permutation", 0, 3)],
)
def test_glow_mixes_as_it_is_told(mixing: str, n_linear: int, n_orders: int) -> None:
    parts = glow([4], layers=3, hidden=(8,), mixing=mixing).transform.parts
    assert sum(isinstance(part, LULinear) for part in parts) == n_linear
    assert sum(isinstance(part, Permute) for part in parts) == n_orders


def test_residual_made_generates_exactly_at_the_size_of_bsds300() -> None:
    made = MADE(63, n_parameters=2, hidden=(128,) * 5, residual=True)

    def solve(parameters: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return noise * torch.exp(-parameters[1].tanh()) + parameters[0], -parameters[1].tanh()

    noise = torch.randn(8, 63)
    with torch.no_grad():
        plain = full_passes(made, solve, noise)
    for fast, slow in zip(incremental(made, solve, noise), plain, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)
