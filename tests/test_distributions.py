"""Base distributions against closed forms and quadrature."""

import math

import pytest
import torch
from oracles import close, concrete_subclasses, randomize
from scipy.stats import kstest
from torch import Tensor
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

import nfbench.distributions
from nfbench.distributions.base import Distribution, StandardNormal, Uniform
from nfbench.distributions.logistic import Logistic
from nfbench.distributions.made_mog import AutoregressiveMixture
from nfbench.flows import FLOWS
from nfbench.nets.made import MADE

pytestmark = pytest.mark.usefixtures("float64")

COMPONENTS = 3


def mixture(features: int, *, reverse: bool = False, context: int = 0) -> AutoregressiveMixture:
    made = MADE(
        features,
        n_parameters=3 * COMPONENTS,
        hidden=(16,),
        reverse=reverse,
        context_features=context,
    )
    distribution = AutoregressiveMixture(made, COMPONENTS)
    randomize(distribution)
    return distribution


BASES = {
    "normal": lambda: StandardNormal((2,)),
    "uniform": lambda: Uniform((2,)),
    "logistic": lambda: Logistic((2,)),
    "mixture": lambda: mixture(2),
}


def test_every_distribution_is_here() -> None:
    found = set(concrete_subclasses(Distribution, nfbench.distributions))
    assert found == {type(build()) for build in BASES.values()}, (
        "give the new distribution a case in BASES"
    )


def middles(step: float, half_width: float = 12.0) -> Tensor:
    return torch.arange(-half_width + step / 2, half_width, step)


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("n", [0, 1, 5])
def test_shapes_dtypes_and_devices_follow_the_module(name: str, n: int) -> None:
    base = BASES[name]()
    for dtype in (torch.float32, torch.float64):
        base.to(dtype)
        sample = base.sample(n)
        assert sample.shape == (n, 2)
        assert sample.dtype == dtype
        assert base.log_prob(sample).shape == (n,)
        assert base.log_prob(sample).dtype == dtype
    assert base.to("meta").sample(n).is_meta


@pytest.mark.parametrize("name", BASES)
def test_log_prob_is_the_log_det_of_the_distribution_functions(name: str) -> None:
    base = BASES[name]()
    z = base.sample(7)
    jacobian = torch.autograd.functional.jacobian(lambda z: base.cdf(z).sum(0), z).transpose(0, 1)
    torch.testing.assert_close(base.log_prob(z), torch.linalg.slogdet(jacobian).logabsdet)
    u = base.cdf(base.sample(4000))
    assert ((u >= 0) & (u <= 1)).all()
    for column in u.detach().unbind(1):
        assert kstest(column, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("event_shape", [(1,), (5,), (2, 3)])
def test_standard_normal_is_that_of_torch(event_shape: tuple[int, ...]) -> None:
    z = torch.randn(7, *event_shape)
    expected = Independent(
        Normal(torch.zeros(event_shape), torch.ones(event_shape)), len(event_shape)
    )
    close(StandardNormal(event_shape).log_prob(z), expected.log_prob(z))
    assert StandardNormal(event_shape).sample(4).shape == (4, *event_shape)


def test_normal_data_score_their_entropy() -> None:
    n, features = 20_000, 7
    scores = StandardNormal((features,)).log_prob(torch.randn(n, features))
    entropy = features / 2 * math.log(2 * math.pi * math.e)
    assert abs(scores.mean().item() + entropy) < 4 * scores.std().item() / math.sqrt(n)


def test_uniform_is_zero_inside_and_impossible_outside() -> None:
    z = torch.tensor([[0.0, 0.0], [0.5, 1 - 1e-12], [0.5, 1.0], [-1e-12, 0.5], [math.nan, 0.5]])
    assert Uniform((2,)).log_prob(z).tolist() == [0.0, 0.0, -math.inf, -math.inf, -math.inf]
    sample = Uniform((2, 3)).sample(1000)
    assert 0 <= sample.min() < 0.01
    assert 0.99 < sample.max() < 1


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("n_context", [0, 2])
def test_mixture_is_a_product_of_torch_mixtures(reverse: bool, n_context: int) -> None:
    base = mixture(4, reverse=reverse, context=n_context)
    z = torch.randn(9, 4)
    context = torch.randn(9, n_context) if n_context else None
    logits, means, log_precisions = (
        base.made(z, context).unflatten(0, (3, COMPONENTS)).movedim(1, -1)
    )
    components = Normal(means, (-0.5 * log_precisions).exp())
    conditionals = MixtureSameFamily(Categorical(logits=logits), components).log_prob(z)
    close(base.log_terms(z, base.made(z, context)), conditionals)
    close(base.log_prob(z, context), conditionals.sum(1))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("features", [1, 2])
def test_mixture_has_mass_one_and_samples_of_its_density(features: int, reverse: bool) -> None:
    base = mixture(features, reverse=reverse)
    step = {1: 1e-3, 2: 0.04}[features]
    points = torch.cartesian_prod(*[middles(step)] * features).reshape(-1, features)
    with torch.no_grad():
        log_density = base.log_prob(points)
        samples = base.sample(20_000)
        scores = base.log_prob(samples)
    weights = log_density.exp() * step**features
    assert weights.sum().item() == pytest.approx(1, abs=1e-5)
    tolerance = 4 / math.sqrt(20_000)
    assert abs(scores.mean() - (weights * log_density).sum()) < tolerance * scores.std()
    mean = weights @ points
    spread = (weights @ (points - mean) ** 2).sqrt()
    assert ((samples.mean(0) - mean).abs() < tolerance * spread).all()


def test_mixture_samples_are_the_same_in_both_ways_of_generating() -> None:
    base = mixture(4)
    torch.manual_seed(3)
    plain = base.sample(50)
    torch.manual_seed(3)
    with torch.no_grad():
        close(base.sample(50), plain)


def test_mixture_starts_with_components_that_differ() -> None:
    made = MADE(2, n_parameters=3 * COMPONENTS)
    base = AutoregressiveMixture(made, COMPONENTS)
    assert len(base.made.biases[-1].unique()) == 2 * 3 * COMPONENTS
    with pytest.raises(ValueError, match="expected 9 parameters per dimension, got 2"):
        AutoregressiveMixture(MADE(2), COMPONENTS)


def test_a_mixture_by_log_scales_is_the_one_by_log_precisions_of_twice_the_output() -> None:
    base, z = mixture(2), torch.randn(50, 2)
    halved = AutoregressiveMixture(base.made, COMPONENTS, scale="exp")
    halved.load_state_dict(base.state_dict())
    log_prob = base.log_prob(z)
    assert not torch.allclose(halved.log_prob(z), log_prob)
    parameters = base.made(z)
    twice = torch.cat([parameters[: 2 * COMPONENTS], 2 * parameters[2 * COMPONENTS :]])
    close(halved.log_prob(z), base.log_terms(z, twice).sum(1))
    with pytest.raises(ValueError, match="scale: expected one of log_precision, exp; got 'tanh'"):
        AutoregressiveMixture(base.made, COMPONENTS, scale="tanh")


def test_gaussian_flow_is_the_maximum_likelihood_normal_of_torch() -> None:
    x = torch.randn(300, 5) @ torch.randn(5, 5) + 3
    flow = FLOWS["gaussian"]([5])
    flow.calibrate(x)
    fitted = MultivariateNormal(x.mean(0), torch.cov(x.t(), correction=0))
    points = torch.randn(50, 5) * 4
    close(flow.log_prob(points), fitted.log_prob(points))
    samples = flow.sample(50_000)
    torch.testing.assert_close(
        torch.cov(samples.t()), fitted.covariance_matrix, rtol=0.05, atol=0.15
    )
    torch.testing.assert_close(samples.mean(0), fitted.mean, rtol=0.02, atol=0.05)


def test_gaussian_fit_of_float32_data_far_from_zero_is_accurate() -> None:
    x = (torch.randn(5000, 3) + 1e3).float()
    flow = FLOWS["gaussian"]([3]).float()
    flow.calibrate(x)
    exact = x.double()
    fitted = MultivariateNormal(exact.mean(0), torch.cov(exact.t(), correction=0))
    torch.testing.assert_close(
        flow.log_prob(x).double(), fitted.log_prob(exact), rtol=0, atol=2e-3
    )


def test_a_far_point_of_a_narrow_component_has_a_finite_gradient() -> None:
    """In float32 exp of its log-precision would be infinite."""
    base = AutoregressiveMixture(MADE(1, n_parameters=6, hidden=(4,)), 2).float()
    parameters = torch.tensor([0.0, 0.0, 0.0, 0.0, 97.0, -1.0]).float()[:, None].requires_grad_()
    log_prob = base.log_terms(torch.tensor([92.0]).float(), parameters)
    assert log_prob.isfinite().all()
    (gradient,) = torch.autograd.grad(log_prob.sum(), parameters)
    assert gradient.isfinite().all()
    assert gradient[5] != 0
