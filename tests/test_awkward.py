"""Every flow of FLOWS where numbers get awkward: precision, extremes, saturation, edges."""

import copy

import pytest
import torch
from flow_cases import VECTORS, cases, context, random_flow, small
from torch import Tensor, nn

from nfbench.distributions.base import StandardNormal
from nfbench.distributions.made_mog import AutoregressiveMixture
from nfbench.errors import FailedRunError
from nfbench.evaluation import check
from nfbench.flows.flow import Flow
from nfbench.flows.maf import maf
from nfbench.nets.made import MADE
from nfbench.nets.mlp import MLP
from nfbench.transforms.autoregressive import Autoregressive
from nfbench.transforms.spline import RationalQuadratic

ALL = cases(1, 2, 5)
SIMPLE = cases(1, 3, contexts=(0,))
HUGE = 1e4
BOUNDED = ("tanh", "clamp")  # scales of affine maps that cannot overflow; other maps have none
UNBOUNDED = {"made", "maf", "maf_mog", "iaf"}  # scales by default: the paper's
TAIL = 6.0  # tail bound of the spline flows of these tests


def saturate(flow: Flow, factor: float = 5.0) -> Flow:
    """Multiply the weights of every layer of every network, its outputs by the product."""
    with torch.no_grad():
        for net in flow.modules():
            if isinstance(net, MADE | MLP):
                for weight in net.weights:
                    weight.mul_(factor)
    return flow


def nets(flow: Flow) -> list[nn.Module]:
    return [module for module in flow.modules() if isinstance(module, MADE | MLP)]


@SIMPLE
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_refused(
    name: str, features: int, n_context: int, dtype: torch.dtype
) -> None:
    """A likelihood in bfloat16 is off by up to two nats a point."""
    flow, x = random_flow(name, features), torch.randn(3, features)
    with pytest.raises(ValueError, match=f"data: expected float32 or float64, got {dtype}"):
        flow.log_prob(x.to(dtype))
    half = copy.deepcopy(flow).to(dtype)
    if list(half.parameters()):
        with pytest.raises(ValueError, match=f"flow: expected float32 or float64, got {dtype}"):
            half.log_prob(x)


@ALL
def test_autocast_around_a_flow_changes_no_number(
    name: str, features: int, n_context: int
) -> None:
    flow, given = random_flow(name, features, n_context), context(7, n_context)
    x = torch.randn(7, features)
    expected = flow.log_prob(x, given)
    torch.manual_seed(1)
    samples = flow.sample(7, given)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(flow.log_prob(x, given), expected)
        assert torch.equal(flow.sample(7, given), samples)


@ALL
def test_float32_round_trip_is_close(name: str, features: int, n_context: int) -> None:
    flow, given = random_flow(name, features, n_context, spread=0.4), context(200, n_context)
    x = torch.randn(200, features)
    z, log_det = flow.transform(x, given)
    back, log_det_back = flow.transform.inverse(z, given)
    torch.testing.assert_close(back, x, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(log_det_back, -log_det, rtol=1e-3, atol=5e-3)


@ALL
@pytest.mark.parametrize("scale", BOUNDED)
def test_a_fresh_flow_gives_extreme_rows_a_number_in_float32(
    name: str, features: int, n_context: int, scale: str
) -> None:
    flow, given = small(name, features, n_context, scale=scale, batch_norm=False).eval(), None
    if n_context:
        given = torch.zeros(4, n_context)
    x = torch.tensor([HUGE, -HUGE, 0.0, 1.0])[:, None].expand(4, features)
    log_prob = flow.log_prob(x.contiguous(), given)
    assert log_prob.dtype == torch.float32
    assert not log_prob.isnan().any()
    assert (log_prob < 100 * features).all()
    assert log_prob[3] > log_prob[0]


@pytest.mark.parametrize("name", VECTORS)
def test_flows_that_overflow_on_extreme_rows_by_default_are_known(name: str) -> None:
    """Where a scale has no bound, and a net sees the row: a run that ends so names the row."""
    flow = small(name, 5).eval()
    x = torch.tensor([HUGE, -HUGE, 0.0])[torch.randint(3, (64, 5))]
    log_prob = flow.log_prob(x).detach()
    assert bool(log_prob.isfinite().all()) == (name not in UNBOUNDED)
    if name in UNBOUNDED:
        first = int((~log_prob.isfinite()).nonzero()[0])
        with pytest.raises(FailedRunError, match=f"at row {first}"):
            check("test", log_prob, 64, 0)


SATURABLE = [case for case in ALL.args[1] if nets(small(*case.values))]


@pytest.mark.parametrize(ALL.args[0], SATURABLE)
@pytest.mark.parametrize("scale", BOUNDED)
def test_saturated_networks_keep_the_flow_finite(
    name: str, features: int, n_context: int, scale: str
) -> None:
    """In float32, both ways, with gradients; but the scales of mixtures have no bound."""
    options = {"scale": scale, "scale_bound": 2.0, "batch_norm": False}
    flow, given = random_flow(name, features, n_context, **options), context(32, n_context)
    x = torch.randn(32, features)
    log_prob = saturate(flow).log_prob(x, given)
    assert not log_prob.isnan().any()
    if isinstance(flow.base, AutoregressiveMixture):
        return
    assert flow.sample(32, given).isfinite().all()
    log_prob.sum().backward()
    gradients = [p.grad for p in flow.transform.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("kind", ["coupling", "autoregressive"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saturated_splines_still_invert(kind: str, dtype: torch.dtype) -> None:
    """Bins of the least width and height: what rounds is 1e6 times as much in z, and no more."""
    flow = saturate(random_flow("nsf", 3, kind=kind, layers=1), 30.0).to(dtype)
    z = torch.empty(500, 3, dtype=dtype).uniform_(-TAIL, TAIL)
    x, log_det = flow.transform.inverse(z)
    again, _ = flow.transform(x)
    assert x.isfinite().all() and log_det.isfinite().all()
    error = (again - z).abs().flatten()
    assert error.quantile(0.9) < 1e6 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("side", ["data", "noise"])
def test_spline_layers_are_the_identity_in_their_tails(dtype: torch.dtype, side: str) -> None:
    made = MADE(2, n_parameters=11, hidden=(8,))
    layer = Autoregressive(made, RationalQuadratic(bins=4, tail_bound=3.0)).to(dtype)
    edge = torch.tensor(3.0, dtype=dtype)
    outside = [torch.nextafter(edge, edge * 2), edge * 2, torch.tensor(HUGE, dtype=dtype)]
    points = torch.stack([*outside, *(-v for v in outside)])[:, None].expand(-1, 2).contiguous()
    image, log_det = layer(points) if side == "data" else layer.inverse(points)
    assert torch.equal(image, points)
    assert torch.equal(log_det, torch.zeros(len(points), dtype=dtype))
    flow = Flow(StandardNormal([2]), layer)
    assert flow.log_prob(points).isfinite().all()


@pytest.mark.parametrize("value", [-3.0, 3.0])
def test_spline_layers_are_continuous_at_the_tails(value: float) -> None:
    made = MADE(1, n_parameters=11, hidden=(8,))
    layer = Autoregressive(made, RationalQuadratic(bins=4, tail_bound=3.0)).double()
    near = value + torch.tensor([[-1e-9], [0.0], [1e-9]], dtype=torch.float64)
    for image, log_det in (layer(near), layer.inverse(near)):
        torch.testing.assert_close(image, near, rtol=0, atol=1e-8)
        torch.testing.assert_close(log_det, torch.zeros(3).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_bad_row_is_named_and_never_a_silent_nan(bad: float) -> None:
    flow: Flow = maf([2], layers=1).eval()
    x: Tensor = torch.zeros(4, 2)
    x[2, 0] = bad
    with pytest.raises(ValueError, match="in 1 of 4 rows, the first of them row 2"):
        flow.log_prob(x)
