"""Linear transforms: triangular factors, rotations, scalings and activation normalization."""

import math

import pytest
import torch
from oracles import close, randomize, through_file
from torch import nn
from torch.distributions import Independent, TransformedDistribution, Uniform
from torch.distributions.transforms import SigmoidTransform

from nfbench.distributions.logistic import Logistic
from nfbench.flows.mixing import MIXINGS, mix
from nfbench.transforms.actnorm import ActNorm
from nfbench.transforms.base import Compose
from nfbench.transforms.lu import LULinear
from nfbench.transforms.orthogonal import Orthogonal
from nfbench.transforms.scaling import DiagonalScaling

pytestmark = pytest.mark.usefixtures("float64")


def random_lu(features: int, spread: float = 1.5) -> LULinear:
    lu = LULinear(features)
    randomize(lu, spread)
    return lu


@pytest.mark.parametrize("features", [1, 2, 7, 63])
def test_lu_is_its_matrix_with_the_log_det_of_slogdet(features: int) -> None:
    lu, x = random_lu(features), torch.randn(5, features)
    lower, upper, diagonal = lu.triangles()
    matrix = lower @ upper
    z, log_det = lu(x)
    close(z, torch.einsum("ij,bj->bi", matrix, x) + lu.bias)
    close(log_det, torch.linalg.slogdet(matrix).logabsdet.expand(5))
    close(lower, lower.tril())
    close(upper, upper.triu())
    close(lower.diagonal(), torch.ones(features))
    assert (diagonal > 0).all()
    again, log_det_back = lu.inverse(z)
    torch.testing.assert_close(again, x, rtol=1e-8, atol=1e-8)
    close(log_det_back, -log_det)


def test_lu_is_invertible_where_its_diagonal_is_saturated() -> None:
    lu, x = LULinear(3).float(), torch.ones(2, 3, dtype=torch.float32)
    with torch.no_grad():
        lu.factors.copy_(torch.diag(torch.tensor([-120.0, -20.0, 0.0])))
    z, log_det = lu(x)
    again, log_det_back = lu.inverse(z)
    torch.testing.assert_close(again, x)
    assert log_det.isfinite().all()
    torch.testing.assert_close(log_det_back, -log_det)


def test_lu_starts_as_the_identity() -> None:
    x = torch.randn(5, 4)
    z, log_det = LULinear(4)(x)
    close(z, x)
    close(log_det, torch.zeros(5))


def test_every_entry_of_the_factors_counts() -> None:
    lu = random_lu(4)
    jacobian = torch.autograd.functional.jacobian(
        lambda factors: torch.func.functional_call(lu, {"factors": factors}, torch.ones(1, 4))[0],
        lu.factors.detach(),
    )
    assert jacobian[0].any(0).all()


def test_a_rotation_keeps_lengths_and_angles_and_is_drawn_anew_each_time() -> None:
    rotation, x = Orthogonal(6), torch.randn(9, 6)
    z, _ = rotation(x)
    close(z @ z.t(), x @ x.t())
    assert not torch.allclose(z, Orthogonal(6)(x)[0])
    assert not list(rotation.parameters())


def test_diagonal_scaling_multiplies_by_the_exponential() -> None:
    scaling, x = DiagonalScaling(3), torch.randn(4, 3)
    close(scaling(x)[0], x)
    randomize(scaling)
    z, log_det = scaling(x)
    close(z, x * math.e**scaling.log_scale)
    close(log_det, scaling.log_scale.sum().expand(4))


def batch(n: int = 50) -> torch.Tensor:
    return torch.randn(n, 3).cumsum(1) * 7 + 100


def test_act_norm_is_the_identity_until_it_is_trained() -> None:
    norm, x = ActNorm(3).eval(), batch()
    for image, log_det in (norm(x), norm.inverse(x), norm.train().inverse(x)):
        close(image, x)
        close(log_det, torch.zeros(50))


def test_act_norm_normalizes_the_first_batch_in_training_and_that_alone() -> None:
    norm, x = ActNorm(3).train(), batch()
    z, log_det = norm(x)
    close(z.mean(0), torch.zeros(3))
    close(z.std(0, correction=0), torch.ones(3))
    close(log_det, -x.std(0, correction=0).log().sum().expand(50))
    other = batch() * 3
    close(norm(other)[0], (other - x.mean(0)) / x.std(0, correction=0))
    close(norm.eval()(other)[0], norm.train()(other)[0])


def test_act_norm_read_from_a_file_is_not_set_again() -> None:
    norm = ActNorm(3).train()
    norm(batch())
    randomize(norm)
    other = ActNorm(3).train()
    other.load_state_dict(through_file(norm))
    x = batch()
    assert torch.equal(other(x)[0], norm(x)[0])
    fresh = ActNorm(3).train()
    fresh.load_state_dict(through_file(ActNorm(3)))
    close(fresh(x)[0].mean(0), torch.zeros(3))


def test_act_norm_keeps_the_storage_of_its_parameters() -> None:
    """The optimizer holds all parameters as one vector, of which they are views."""
    norm = ActNorm(3).train()
    vector = torch.zeros(6)
    norm.log_scale.data, norm.bias.data = vector[:3], vector[3:]
    norm(batch())
    assert vector.all()


def test_act_norm_takes_nothing_from_a_batch_that_is_not_finite() -> None:
    norm, x = ActNorm(3).train(), torch.randn(8, 3)
    x[3, 1] = float("nan")
    with pytest.raises(ValueError, match=r"first batch: .* infinity in features \[1\]"):
        norm(x)
    assert not norm.is_set


def test_act_norm_takes_nothing_from_a_single_row_and_no_scale_from_a_constant() -> None:
    norm = ActNorm(2).train()
    x = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    for rows in (x[:1], x[:0]):
        assert torch.equal(norm(rows)[0], rows)
    close(norm(x)[0], torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))


def test_act_norm_takes_the_scale_of_float32_data_far_from_zero() -> None:
    norm, x = ActNorm(3).float().train(), (torch.randn(500, 3) * 0.1 + 1e3).float()
    assert norm(x)[0].std(0, correction=0).tolist() == pytest.approx([1.0] * 3, rel=1e-3)


def test_act_norm_passes_gradients_at_its_first_batch() -> None:
    norm, x = ActNorm(3).train(), batch().requires_grad_()
    z, log_det = norm(x)
    (z.sin().sum() + log_det.sum()).backward()
    assert x.grad is not None and x.grad.any()
    assert norm.log_scale.grad is not None and norm.log_scale.grad.any()


@pytest.mark.parametrize("kind", MIXINGS)
def test_mixings_start_as_rotations_and_survive_a_file(kind: str) -> None:
    first, second = Compose(mix(kind, 5)), Compose(mix(kind, 5))
    x = torch.randn(8, 5)
    z, log_det = first(x)
    close(z.square().sum(1), x.square().sum(1))
    close(log_det, torch.zeros(8))
    second.load_state_dict(through_file(first))
    assert torch.equal(second(x)[0], z)
    close(second.inverse(z)[0], x)


@pytest.mark.parametrize("event_shape", [(1,), (2, 3)])
def test_logistic_is_that_of_torch(event_shape: tuple[int, ...]) -> None:
    unit = Uniform(torch.zeros(event_shape), torch.ones(event_shape))
    expected = Independent(
        TransformedDistribution(unit, [SigmoidTransform().inv]), len(event_shape)
    )
    z = torch.randn(9, *event_shape) * 3
    close(Logistic(event_shape).log_prob(z), expected.log_prob(z))


def test_logistic_far_out_falls_off_linearly() -> None:
    z = torch.tensor([[-1e4], [1e4], [-50.0]])
    close(Logistic((1,)).log_prob(z), -z.abs()[:, 0])


def test_logistic_samples_have_its_variance_and_are_finite() -> None:
    samples = Logistic((2,)).float().sample(200_000)
    assert samples.isfinite().all()
    assert abs(samples.mean().item()) < 0.02
    assert samples.var().item() == pytest.approx(math.pi**2 / 3, rel=0.02)


def test_logistic_never_draws_infinity(monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype in (torch.float32, torch.float64):
        logistic = nn.Module.to(Logistic((1,)), dtype)
        for end in (0.0, 1 - torch.finfo(dtype).eps / 2):
            monkeypatch.setattr(torch, "rand", lambda *_, **kw: torch.full((1, 1), end, **kw))  # noqa: B023
            assert logistic.sample(1).isfinite().all()
            monkeypatch.undo()
