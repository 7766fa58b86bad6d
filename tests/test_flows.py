"""Every flow of FLOWS keeps its contract."""

import copy
import math
from functools import partial

import pytest
import torch
from flow_cases import (
    IGNORES_CONTEXT,
    N_CONTEXT,
    NEEDS_TWO_DIMENSIONS,
    VARIANTS,
    VECTORS,
    WITHOUT_GRADIENTS,
    cases,
    context,
    random_flow,
    small,
)
from oracles import check_contract, check_gradients, close, jacobians, through_file
from torch import Tensor

from nfbench.distributions.base import StandardNormal
from nfbench.flows import FLOWS
from nfbench.flows.flow import Flow
from nfbench.flows.preprocessed import Preprocessed
from nfbench.nets.made import MADE
from nfbench.transforms.base import Compose
from nfbench.transforms.normalize import BatchNorm
from nfbench.transforms.reshape import Flatten

pytestmark = pytest.mark.usefixtures("float64")

ALL = cases(1, 2, 5)
EVERY = pytest.mark.parametrize("name", VECTORS)


def has_batch_norm(flow: Flow) -> bool:
    return any(isinstance(module, BatchNorm) for module in flow.modules())


def test_flows_are_found() -> None:
    assert {"gaussian", "made", "made_mog", "maf", "maf_mog", "realnvp"} <= set(FLOWS)
    exceptions = NEEDS_TWO_DIMENSIONS | WITHOUT_GRADIENTS | IGNORES_CONTEXT
    assert {*FLOWS, *VARIANTS} >= exceptions


@ALL
def test_transform_keeps_the_contract(name: str, features: int, n_context: int) -> None:
    flow, given = random_flow(name, features, n_context), context(3, n_context)
    check_contract(flow.transform, torch.randn(3, features), torch.randn(3, features), given)


@ALL
def test_the_steps_begin_at_the_noise_and_end_in_the_sample(
    name: str, features: int, n_context: int
) -> None:
    flow, given = random_flow(name, features, n_context), context(3, n_context)
    noise = torch.randn(3, features)
    points = [noise, *(points for _, points in flow.transform.steps(noise, given))]
    close(points[-1], flow.transform.inverse(noise, given)[0])
    back = [points[-1], *(p for _, p in flow.transform.steps(points[-1], given, backwards=False))]
    assert len(back) == len(points)
    for there, here in zip(points, reversed(back), strict=True):
        close(here, there)


@ALL
def test_log_prob_is_the_base_plus_the_log_det_of_autograd(
    name: str, features: int, n_context: int
) -> None:
    flow, given, x = (
        random_flow(name, features, n_context),
        context(3, n_context),
        torch.randn(3, features),
    )
    log_prob = flow.log_prob(x, given)
    jacobian = jacobians(lambda rows: flow.transform(rows, given)[0], x)
    close(
        log_prob,
        flow.base.log_prob(flow.transform(x, given)[0], given) + jacobian.det().abs().log(),
    )
    assert log_prob.shape == (3,)
    assert torch.equal(flow(x, given), log_prob)


@ALL
def test_gradient_reaches_every_parameter(name: str, features: int, n_context: int) -> None:
    flow, given = random_flow(name, features, n_context), context(64, n_context)
    parameters = [parameter for parameter in flow.parameters() if parameter.requires_grad]
    assert bool(parameters) == (name not in WITHOUT_GRADIENTS)
    if parameters:
        check_gradients(flow, flow.log_prob(torch.randn(64, features), given).sum())
        noise = torch.randn(64, features)
        x, log_det = flow.transform.inverse(noise, given)
        if list(flow.transform.parameters()):
            check_gradients(flow.transform, x.square().sum() + log_det.sum())
            flow.zero_grad()
            flow.sample(64, given).square().sum().backward()
            assert all(parameter.grad is not None for parameter in flow.transform.parameters())


@ALL
def test_gradient_of_a_sample_is_that_of_finite_differences(
    name: str, features: int, n_context: int
) -> None:
    flow, given, noise = (
        random_flow(name, features, n_context),
        context(8, n_context),
        torch.randn(8, features),
    )
    parameters = [p for p in flow.transform.parameters() if p.requires_grad]
    for parameter in parameters[-2:]:
        direction, step = torch.randn_like(parameter), 1e-6

        def value() -> Tensor:
            return flow.transform.inverse(noise, given)[0].sin().sum()

        (gradient,) = torch.autograd.grad(value(), parameter)
        with torch.no_grad():
            parameter += step * direction
            above = value()
            parameter -= 2 * step * direction
            below = value()
            parameter += step * direction
        expected = (above - below) / (2 * step)
        torch.testing.assert_close((gradient * direction).sum(), expected, rtol=1e-5, atol=1e-6)


@ALL
def test_a_flow_read_from_a_file_is_the_same(name: str, features: int, n_context: int) -> None:
    flow, given, x = (
        random_flow(name, features, n_context),
        context(9, n_context),
        torch.randn(9, features),
    )
    other = small(name, features, n_context).eval()
    other.load_state_dict(through_file(flow))
    assert torch.equal(other.log_prob(x, given), flow.log_prob(x, given))
    samples = []
    for model in (flow, other):
        torch.manual_seed(1)
        samples.append(model.sample(9, given))
    assert torch.equal(*samples)


@ALL
def test_training_mode_changes_nothing_without_batch_norm(
    name: str, features: int, n_context: int
) -> None:
    flow, given = random_flow(name, features, n_context, batch_norm=False), context(9, n_context)
    assert not has_batch_norm(flow)
    x = torch.randn(9, features)
    expected = flow.log_prob(x, given)
    assert torch.equal(flow.train().log_prob(x, given), expected)


@pytest.mark.parametrize("name", [name for name in VECTORS if has_batch_norm(small(name, 2))])
def test_calibrated_flow_evaluates_as_it_trains_on_the_whole_set(name: str) -> None:
    flow, x = random_flow(name, 5), torch.randn(300, 5).cumsum(1)
    flow.train()
    flow.calibrate(x)
    assert flow.training, "calibration leaves the mode as it was"
    assert flow.needs_calibration
    trained = flow.log_prob(x)
    close(flow.eval().log_prob(x), trained)
    assert not torch.allclose(flow.train().log_prob(x[:100]), trained[:100]), (
        "batch statistics count in training"
    )


@ALL
def test_float32_stays_close_to_float64(name: str, features: int, n_context: int) -> None:
    flow, given, x = (
        random_flow(name, features, n_context),
        context(64, n_context),
        torch.randn(64, features),
    )
    single = copy.deepcopy(flow).float()
    rough = single.log_prob(x.float(), None if given is None else given.float())
    torch.testing.assert_close(rough.double(), flow.log_prob(x, given), rtol=1e-4, atol=1e-4)
    sample = single.sample(64, None if given is None else given.float())
    assert rough.dtype == sample.dtype == torch.float32
    assert flow.sample(64, given).dtype == torch.float64


@ALL
def test_results_stay_on_the_device_of_the_flow(name: str, features: int, n_context: int) -> None:
    flow, given = random_flow(name, features, n_context).to("meta"), context(3, n_context)
    given = None if given is None else given.to("meta")
    assert flow.log_prob(torch.randn(3, features, device="meta"), given).is_meta
    assert flow.sample(3, given).is_meta
    with torch.no_grad():
        assert flow.sample(3, given).is_meta


@ALL
@pytest.mark.parametrize("n", [0, 1])
def test_batches_of_one_and_none(name: str, features: int, n_context: int, n: int) -> None:
    flow, given = random_flow(name, features, n_context), context(n, n_context)
    for wanted in (True, False):
        with torch.set_grad_enabled(wanted):
            assert flow.log_prob(torch.randn(n, features), given).shape == (n,)
            assert flow.sample(n, given).shape == (n, features)


@ALL
def test_a_row_scores_the_same_alone_and_in_any_layout(
    name: str, features: int, n_context: int
) -> None:
    flow, given, x = (
        random_flow(name, features, n_context),
        context(8, n_context),
        torch.randn(8, features),
    )
    expected = flow.log_prob(x, given)
    alone = [
        flow.log_prob(x[i : i + 1], None if given is None else given[i : i + 1]) for i in range(8)
    ]
    close(torch.cat(alone), expected)
    close(flow.log_prob(torch.stack([x, -x], dim=-1)[..., 0], given), expected)
    close(flow.log_prob(x.t().contiguous().t(), given), expected)


@ALL
@pytest.mark.parametrize("scale", ["tanh", "clamp"])
def test_bounded_scales_survive_extreme_rows(
    name: str, features: int, n_context: int, scale: str
) -> None:
    flow, given = (
        random_flow(name, features, n_context, scale=scale, scale_bound=2.0),
        context(16, n_context),
    )
    x = torch.tensor([-1e4, 1e4, 0.0])[torch.randint(3, (16, features))]
    z, log_det = flow.transform(x, given)
    assert z.isfinite().all()
    assert log_det.isfinite().all()
    assert (flow.log_prob(x, given) < math.inf).all(), (
        "neither infinite nor NaN; only 0 density is allowed"
    )
    torch.testing.assert_close(flow.transform.inverse(z, given)[0], x, rtol=1e-6, atol=1e-3)


@cases(1, 2, contexts=(N_CONTEXT,))
def test_context_conditions_every_dimension(name: str, features: int, n_context: int) -> None:
    flow, given = random_flow(name, features, n_context), torch.eye(2, n_context)
    x = torch.randn(1, features).expand(2, -1)
    first, second = flow.log_prob(x, given)
    if name in IGNORES_CONTEXT:
        assert first == second
        return
    assert abs(first - second) > 1e-6
    samples = flow.transform.inverse(x, given)[0]
    if list(flow.transform.parameters()):
        assert ((samples[0] - samples[1]).abs() > 1e-6).all()


@pytest.mark.parametrize("n_layers", [2, 3])
def test_maf_turns_the_order_round_at_each_layer_and_its_mixture_goes_on(n_layers: int) -> None:
    flow = random_flow("maf_mog", 4, layers=n_layers)
    made = [module for module in flow.transform.modules() if isinstance(module, MADE)]
    orders = [net.order for net in [*made, flow.base.made]]
    assert len(orders) == n_layers + 1
    assert orders == [[0, 1, 2, 3][:: -1 if layer % 2 else 1] for layer in range(n_layers + 1)]


def test_realnvp_maps_each_half_in_turn() -> None:
    flow = random_flow("realnvp", 5, layers=2, batch_norm=False)
    x = torch.randn(1, 5)
    permute, first, second = flow.transform.parts
    sorted_x = permute(x)[0]
    assert torch.equal(sorted_x, x[:, [0, 2, 4, 1, 3]])
    assert (first(sorted_x)[0] != sorted_x).tolist() == [[False] * 3 + [True] * 2]
    assert (second(sorted_x)[0] != sorted_x).tolist() == [[True] * 3 + [False] * 2]


@pytest.mark.parametrize("name", sorted(NEEDS_TWO_DIMENSIONS))
def test_one_dimension_is_refused_where_there_is_nothing_to_split(name: str) -> None:
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        small(name, 1)


@EVERY
def test_parameters_are_laid_out_as_a_file_lays_them_out(name: str) -> None:
    """Products round by the layout: a resumed run would differ in the last digit."""
    assert all(parameter.is_contiguous() for parameter in small(name, 2).parameters())


@EVERY
def test_an_image_is_flattened_first(name: str) -> None:
    flow = random_flow(name, 6)
    images = torch.randn(4, 1, 2, 3)
    on_images = Preprocessed(Compose([Flatten((1, 2, 3))]), flow)
    assert torch.equal(on_images.log_prob(images), flow.log_prob(images.flatten(1)))
    assert on_images.sample(4).shape == images.shape
    assert on_images.likelihood == "exact"


@EVERY
def test_a_context_that_does_not_fit_is_refused(name: str) -> None:
    x = torch.randn(3, 2)
    with pytest.raises(ValueError, match=r"expected a tensor \(B, 2\), got none"):
        small(name, 2, N_CONTEXT).log_prob(x)
    with pytest.raises(ValueError, match=r"expected a tensor \(B, 2\), got shape \(3, 5\)"):
        small(name, 2, N_CONTEXT).log_prob(x, torch.randn(3, 5))
    with pytest.raises(ValueError, match="this flow is unconditional"):
        small(name, 2).log_prob(x, torch.randn(3, 2))


@cases(3, contexts=(N_CONTEXT,))
@pytest.mark.parametrize("n", [1, 4])
def test_a_context_of_more_or_fewer_rows_is_refused(
    name: str, features: int, n_context: int, n: int
) -> None:
    flow, given = random_flow(name, features, n_context), torch.randn(n, n_context)
    log_prob = partial(flow.log_prob, torch.randn(3, features))
    for call in (log_prob, partial(flow.sample, 3), partial(flow.sample_with_log_prob, 3)):
        with pytest.raises(ValueError, match=f"context: expected 3 rows, .* got {n}"):
            call(given)


@cases(3, contexts=(0,))
@pytest.mark.parametrize("width", [1, 2, 4])
def test_data_of_another_width_are_refused(
    name: str, features: int, n_context: int, width: int
) -> None:
    """Of width 1, too, which broadcasting would take for every dimension."""
    flow = random_flow(name, features)
    with pytest.raises((ValueError, RuntimeError)):
        flow.log_prob(torch.randn(5, width))
    if flow.needs_calibration:
        with pytest.raises((ValueError, RuntimeError)):
            flow.calibrate(torch.randn(5, width))


@cases(3, contexts=(0,))
@pytest.mark.parametrize("shape", [(), (3,)])
def test_what_are_no_rows_is_refused(
    name: str, features: int, n_context: int, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"data: expected rows \(B, \*event\), got a tensor"):
        random_flow(name, features).log_prob(torch.zeros(shape))


def test_integers_that_would_wrap_are_refused() -> None:
    bright = torch.full((2, 3), 20, dtype=torch.uint8)  # of squares beyond 255
    with pytest.raises(
        ValueError, match=r"data: expected torch.float64, .* got torch.uint8; dequantize"
    ):
        random_flow("identity", 3).log_prob(bright)
    with pytest.raises(ValueError, match=r"expected float32 .* dequantizes, got torch\.uint8"):
        Flow(StandardNormal([3]), Compose([])).log_prob(bright)


@EVERY
def test_rows_that_a_recipe_did_not_build_the_flow_for_are_refused(name: str) -> None:
    flow = random_flow(name, 6)
    for shape in [(4, 5), (4, 7), (4, 6, 2), (4, 1)]:
        with pytest.raises(ValueError, match=rf"rows of shape \(B, 6\), .* \(4, {shape[1]}"):
            flow.log_prob(torch.randn(shape))
    with pytest.raises(ValueError, match=r"got \(4, 1, 2, 3\); flatten them with x.flatten\(1\)"):
        flow.log_prob(torch.randn(4, 1, 2, 3))
    with pytest.raises(ValueError, match=r"expected torch.float64, as the flow is, .*; convert"):
        flow.log_prob(torch.randn(4, 6).float())


@cases(3, contexts=(0,))
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_is_named(
    name: str, features: int, n_context: int, bad: float
) -> None:
    x = torch.randn(5, features)
    x[3, 1] = bad
    with pytest.raises(ValueError, match=r"1 of 5 rows, the first of them row 3"):
        random_flow(name, features, n_context).log_prob(x)


@cases(3, contexts=(N_CONTEXT,))
def test_a_row_whose_context_is_not_finite_is_named(
    name: str, features: int, n_context: int
) -> None:
    flow, given = random_flow(name, features, n_context), torch.randn(5, n_context)
    given[2, 0] = float("nan")
    for call in (partial(flow.log_prob, torch.randn(5, features)), partial(flow.sample, 5)):
        with pytest.raises(ValueError, match=r"context: .* 1 of 5 rows, the first of them row 2"):
            call(given)
