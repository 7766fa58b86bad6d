"""The rational-quadratic spline: monotone, smooth at its knots, exact at its edges and far out."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import close
from torch import Tensor

from nfbench.transforms.spline import MIN_FRACTION, MIN_SLOPE, RationalQuadratic

pytestmark = pytest.mark.usefixtures("float64")

BOUND = 3.0
BINS = pytest.mark.parametrize("bins", [1, 2, 8, 32])
WAYS = pytest.mark.parametrize("way", ["forward", "inverse"])


def spline(bins: int = 8) -> RationalQuadratic:
    return RationalQuadratic(bins=bins, tail_bound=BOUND)


def both(each: RationalQuadratic) -> tuple:
    return each.forward, each.inverse


def parameters(bins: int, n: int, spread: float = 1.5) -> Tensor:
    return torch.randn(3 * bins - 1, n) * spread


def special(knots: Tensor) -> Tensor:
    """Inputs where something could go wrong: knots, edges and their neighbors, tails."""
    edge = torch.tensor(BOUND, dtype=knots.dtype)
    steps = [torch.nextafter(edge, edge * 2), torch.nextafter(edge, -edge), edge, edge * 1.01]
    ends = torch.stack([*steps, torch.tensor(1e4).to(edge), torch.tensor(torch.inf).to(edge)])
    return torch.cat([knots, ends, -ends, ends[:1] * 0])


@BINS
def test_zero_parameters_are_the_identity(bins: int) -> None:
    x = torch.linspace(-5, 5, 101)
    for image, log_det in (way(x, torch.zeros(3 * bins - 1, 101)) for way in both(spline(bins))):
        close(image, x)
        close(log_det, torch.zeros(101))


@BINS
def test_each_direction_undoes_the_other(bins: int) -> None:
    each, theta, x = spline(bins), parameters(bins, 4000, 1.0), torch.randn(4000) * 2
    for there, back in (both(each), both(each)[::-1]):
        image, log_det = there(x, theta)
        again, log_det_back = back(image, theta)
        # Rounding of the image counts the more, the flatter the spline.
        flatness = (-log_det).exp().clamp(min=1)
        assert ((again - x).abs() <= 1e-12 * flatness).all()
        assert ((log_det_back + log_det).abs() <= 1e-11 * flatness).all()


@BINS
@WAYS
def test_log_slope_is_that_of_autograd(bins: int, way: str) -> None:
    x = (torch.randn(500) * 2).requires_grad_()
    image, log_det = getattr(spline(bins), way)(x, parameters(bins, 500))
    (slope,) = torch.autograd.grad(image.sum(), x)
    close(log_det, slope.log())


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    bins=st.integers(1, 20),
    spread=st.floats(0, 20),
    seed=st.integers(0, 10**6),
    back=st.booleans(),
)
def test_larger_inputs_have_larger_images(bins: int, spread: float, seed: int, back: bool) -> None:
    torch.manual_seed(seed)
    theta = parameters(bins, 1, spread).expand(-1, 2000)
    x = torch.linspace(-BOUND - 1, BOUND + 1, 2000)
    image, log_det = both(spline(bins))[back](x, theta)
    assert (image.diff() > 0).all()
    assert log_det.isfinite().all()
    outside = x.abs() > BOUND
    assert torch.equal(image[outside], x[outside])
    assert not log_det[outside].any()


@WAYS
@pytest.mark.parametrize("step", [1e-9, -1e-9])
def test_value_and_slope_are_continuous_at_the_knots(way: str, step: float) -> None:
    each, theta = spline(), parameters(8, 1, 1.0)
    places, others, slopes = each.knots(theta)[..., 0]
    if way == "inverse":
        places, others, slopes = others, places, 1 / slopes
    image, log_det = getattr(each, way)(places + step, theta.expand(-1, 9))
    torch.testing.assert_close(image, others, rtol=0, atol=1e-6)
    torch.testing.assert_close(log_det, slopes.log(), rtol=0, atol=1e-5)


@WAYS
def test_knots_go_to_knots(way: str) -> None:
    each, theta = spline(), parameters(8, 1)
    places, others, slopes = each.knots(theta)[..., 0]
    if way == "inverse":
        places, others, slopes = others, places, 1 / slopes
    image, log_det = getattr(each, way)(places, theta.expand(-1, 9))
    close(image, others)
    close(log_det, slopes.log())


@BINS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outer_knots_lie_at_the_bound_and_bins_keep_their_minimum(
    bins: int, dtype: torch.dtype
) -> None:
    knots = spline(bins).to(dtype).knots(parameters(bins, 5000, 30.0).to(dtype))
    assert (knots[:2, 0] == -BOUND).all()
    assert (knots[:2, -1] == BOUND).all()
    assert (knots[2, [0, -1]] == 1).all()
    assert (knots[:2].diff(dim=1) > 0.99 * 2 * BOUND * MIN_FRACTION).all()
    assert (knots[2] >= MIN_SLOPE).all()


def test_outer_knots_lie_at_a_bound_that_float32_does_not_hold() -> None:
    each = RationalQuadratic(bins=4, tail_bound=2.3).float().double()
    knots = each.knots(parameters(4, 5))
    assert (knots[:2, 0] == -2.3).all()
    assert (knots[:2, -1] == 2.3).all()


@WAYS
@pytest.mark.parametrize("spread", [0.0, 1.0, 50.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_finite_everywhere(
    way: str, spread: float, dtype: torch.dtype
) -> None:
    each, theta = spline().to(dtype), parameters(8, 1, spread).to(dtype)
    x = special(each.knots(theta)[int(way == "inverse"), :, 0])
    finite = x.isfinite()
    x, theta = x.requires_grad_(), theta.expand(-1, len(x)).clone().requires_grad_()
    image, log_det = getattr(each, way)(x, theta)
    assert image.dtype == log_det.dtype == dtype
    assert torch.equal(image.isfinite(), finite)
    assert log_det.isfinite().all()
    (image[finite].sum() + log_det.sum()).backward()
    assert x.grad is not None and x.grad.isfinite().all()
    assert theta.grad is not None and theta.grad.isfinite().all()


@BINS
def test_float32_round_trip_is_accurate_to_a_hundred_thousandth(bins: int) -> None:
    each, theta = spline(bins).float(), parameters(bins, 2000, 0.5).float()
    inner = special(torch.empty(0, dtype=torch.float32))
    inner = inner[inner.isfinite()]
    x = torch.cat([torch.randn(2000 - len(inner)) * 2, inner]).float()
    for there, back in (both(each), both(each)[::-1]):
        again = back(there(x, theta)[0], theta)[0]
        assert ((again - x).abs() <= 1e-5 * x.abs().clamp(min=1)).all()


def test_parameters_may_come_one_by_one() -> None:
    theta, x = parameters(8, 9), torch.randn(9)
    for one, other in zip(spline()(x, theta), spline()(x, list(theta)), strict=True):
        assert torch.equal(one, other)


def test_temperature_divides_widths_and_heights_alone() -> None:
    theta, x = parameters(4, 9), torch.randn(9)
    divided = torch.cat([theta[:8] / 5, theta[8:]])
    cool = RationalQuadratic(bins=4, tail_bound=BOUND, temperature=5.0)
    close(cool(x, theta)[0], spline(4)(x, divided)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bins": 0}, "bins: expected a number in 1..999, got 0"),
        ({"bins": 1000}, "got 1000"),
        ({"tail_bound": 0.0}, "tail_bound: expected a positive number, got 0.0"),
        ({"tail_bound": float("nan")}, "tail_bound: expected a positive number, got nan"),
        ({"temperature": -1.0}, "temperature: expected a positive number, got -1.0"),
    ],
)
def test_errors_say_what_was_expected(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RationalQuadratic(**arguments)


@pytest.mark.parametrize("steep", [5e2, 5e3])
def test_inverse_is_accurate_where_the_spline_ends_a_bin_steeply(steep: float) -> None:
    """The textbook root subtracts numbers that are almost the same there."""
    theta = torch.zeros(5, 1001)  # two equal bins, their common knot at 0
    theta[4] = steep
    z = torch.linspace(-BOUND, 0, 1001).float()
    exact, log_det = spline(2).inverse(z.double(), theta)
    rough, _ = spline(2).float().inverse(z, theta.float())
    assert ((rough - exact).abs() <= 5e-7 * (1 + log_det.exp())).all()


def test_gradients_are_finite_where_the_discriminant_rounds_to_nothing() -> None:
    """Just below the flat end of a steep bin, in float32."""
    each, theta = spline(3).float(), parameters(3, 20_000, 50.0).float().requires_grad_()
    z = torch.nextafter(each.knots(theta).detach()[1, 2], torch.tensor(-10.0).float())
    z.requires_grad_()
    x, log_det = each.inverse(z, theta)
    (x.sum() + log_det.sum()).backward()
    for tensor in (x, log_det, z.grad, theta.grad):
        assert tensor is not None and tensor.isfinite().all()
