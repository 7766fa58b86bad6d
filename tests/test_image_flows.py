"""Every flow of images keeps the contract of a flow, at sizes whose Jacobian a test can afford."""

import pytest
import torch
from image_flow_cases import (
    ALL,
    EVERY,
    N_CONTEXT,
    SHAPE,
    SMALL,
    WITH_JACOBIANS,
    context,
    random_flow,
    small,
)
from oracles import check_contract, check_gradients, close, jacobians, through_file

from nfbench.flows import FLOWS, IMAGE_FLOWS

pytestmark = pytest.mark.usefixtures("float64")


def test_flows_are_found() -> None:
    assert set(SMALL) == IMAGE_FLOWS


@WITH_JACOBIANS
def test_transform_keeps_the_contract(name: str, n_context: int) -> None:
    flow, given, x = random_flow(name, n_context), context(2, n_context), torch.randn(2, *SHAPE)
    check_contract(flow.transform, x, torch.randn(2, 32), given)


@WITH_JACOBIANS
def test_log_prob_is_the_base_plus_the_log_det_of_autograd(name: str, n_context: int) -> None:
    flow, given, x = random_flow(name, n_context), context(2, n_context), torch.randn(2, *SHAPE)
    z, _ = flow.transform(x, given)
    log_det = torch.linalg.slogdet(jacobians(lambda rows: flow.transform(rows, given)[0], x))[1]
    base = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    close(flow.log_prob(x, given), base + log_det)


@ALL
def test_samples_are_images_that_the_noise_comes_back_from(name: str, n_context: int) -> None:
    flow, given = random_flow(name, n_context), context(5, n_context)
    torch.manual_seed(1)
    samples = flow.sample(5, given)
    torch.manual_seed(1)
    noise = torch.randn(5, 32)
    assert samples.shape == (5, *SHAPE)
    close(flow.transform(samples, given)[0], noise)


@ALL
def test_a_training_step_reaches_every_parameter(name: str, n_context: int) -> None:
    flow = random_flow(name, n_context).train()
    loss = -flow.log_prob(torch.randn(16, *SHAPE), context(16, n_context)).mean()
    check_gradients(flow, loss)


@EVERY
def test_a_flow_read_from_a_file_is_the_same(name: str) -> None:
    flow, x = random_flow(name), torch.randn(3, *SHAPE)
    other = small(name).eval()
    other.load_state_dict(through_file(flow))
    assert torch.equal(other.log_prob(x), flow.log_prob(x))


@EVERY
def test_parameters_are_laid_out_as_a_file_lays_them_out(name: str) -> None:
    """Products round by the layout: a resumed run would differ in the last digit."""
    assert all(parameter.is_contiguous() for parameter in small(name).parameters())


@EVERY
def test_float32_stays_close_to_float64(name: str) -> None:
    flow, x = random_flow(name), torch.randn(3, *SHAPE)
    exact = flow.log_prob(x)
    torch.testing.assert_close(
        flow.float().log_prob(x.float()).double(), exact, rtol=1e-4, atol=1e-4
    )


@EVERY
def test_the_layout_in_memory_changes_nothing(name: str) -> None:
    flow, x = random_flow(name), torch.randn(3, 3, *SHAPE[1:])
    flow = small(name, shape=(3, *SHAPE[1:])).eval()
    expected = flow.log_prob(x)
    close(flow.log_prob(x.contiguous(memory_format=torch.channels_last)), expected)


@EVERY
def test_a_conditional_flow_asks_for_its_context(name: str) -> None:
    with pytest.raises(ValueError, match="this flow is conditional"):
        small(name, N_CONTEXT).eval().log_prob(torch.randn(2, *SHAPE))
    with pytest.raises(ValueError, match="this flow is unconditional"):
        small(name).eval().log_prob(torch.randn(2, *SHAPE), torch.randn(2, N_CONTEXT))


@pytest.mark.parametrize("name", sorted(IMAGE_FLOWS))
@pytest.mark.parametrize("shape", [(5,), (1, 5, 8), (1, 8, 5), (3, 7, 7)])
def test_other_events_than_images_of_fitting_sides_are_refused(
    name: str, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="expected images"):
        FLOWS[name](shape, **SMALL[name])
