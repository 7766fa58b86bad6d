"""Likelihoods of integer data: sums over the levels, closed forms, extremes, samples."""

import math
from collections.abc import Callable

import pytest
import torch
from oracles import close
from torch import Tensor

from nfbench.distributions.observation import (
    OBSERVATIONS,
    Bernoulli,
    Categorical,
    DiscretizedLogistic,
    Observation,
    observation,
)

CASES: dict[str, Callable[[], Observation]] = {
    "bernoulli": Bernoulli,
    "categorical": lambda: Categorical(7),
    "logistic": lambda: DiscretizedLogistic(8),
    "logistic-pixel": lambda: DiscretizedLogistic(8, scale="pixel"),
    "logistic-tails": lambda: DiscretizedLogistic(8, tails=True),
    "logistic-pixel-tails": lambda: DiscretizedLogistic(8, scale="pixel", tails=True),
}
SETTINGS = [(scale, tails) for scale in ("global", "pixel") for tails in (False, True)]
EVENT = (2, 3)
EXTREME = (1e4, 1e30)  # of float32: what no sensible decoder says


def every_level(likelihood: Observation, parameters: Tensor) -> Tensor:
    """Log-probabilities (levels, B) of each level in all dimensions."""
    shape = (len(parameters), *parameters.shape[2:])
    levels = range(likelihood.levels)
    return torch.stack([likelihood.log_prob(torch.full(shape, k), parameters) for k in levels])


def cdf(x: float, mean: float, scale: float) -> float:
    """Of a logistic distribution, by the hyperbolic tangent."""
    return 0.5 + 0.5 * math.tanh((x - mean) / (2 * scale))


def plain(k: int, mean: float, scale: float, levels: int, *, tails: bool) -> float:
    """The formula as printed, a difference of distribution functions."""
    low, high = k / levels - 0.5, (k + 1) / levels - 0.5
    if not tails:
        mean = min(max(mean, -0.5 + 0.5 / levels), 0.5 - 0.5 / levels)
        return math.log(cdf(high, mean, scale) - cdf(low, mean, scale) + 1e-7)
    above = 1.0 if k == levels - 1 else cdf(high, mean, scale)
    return math.log(above - (0.0 if k == 0 else cdf(low, mean, scale)))


def test_every_likelihood_has_its_name() -> None:
    assert {type(build()) for build in CASES.values()} == set(OBSERVATIONS.values())
    assert all(name in CASES for name in OBSERVATIONS)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "name", [name for name in CASES if name not in ("logistic", "logistic-pixel")]
)
@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0])
def test_probabilities_sum_to_one(name: str, spread: float) -> None:
    likelihood = CASES[name]()
    parameters = spread * torch.randn(50, likelihood.n_parameters, 1)
    close(every_level(likelihood, parameters).exp().sum(0), torch.ones(50))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("scale", [0.01, 0.1, 1.0, 50.0])
def test_without_tails_the_sum_is_what_is_stated(scale: float) -> None:
    likelihood = DiscretizedLogistic(256, scale="pixel")
    means = torch.tensor([-3.0, -0.4, 0.0, 0.31, 2.0])
    parameters = torch.stack([means, torch.full((5,), math.log(scale))], 1)[..., None]
    found = every_level(likelihood, parameters).exp().sum(0)
    cut = [min(max(m, -0.5 + 1 / 512), 0.5 - 1 / 512) for m in means.tolist()]
    inside = [cdf(0.5, m, scale) - cdf(-0.5, m, scale) for m in cut]
    close(found, torch.tensor(inside) + 256e-7)


@pytest.mark.usefixtures("float64")
def test_bernoulli_is_that_of_torch() -> None:
    x, logits = torch.randint(0, 2, (5, *EVENT)), 3 * torch.randn(5, 1, *EVENT)
    oracle = torch.distributions.Bernoulli(logits=logits[:, 0])
    close(Bernoulli().log_prob(x.byte(), logits), oracle.log_prob(x.double()).sum((1, 2)))
    close(Bernoulli().mean(logits), oracle.mean)


@pytest.mark.usefixtures("float64")
def test_categorical_is_that_of_torch() -> None:
    x, logits = torch.randint(0, 256, (5, *EVENT)), 3 * torch.randn(5, 256, *EVENT)
    oracle = torch.distributions.Categorical(logits=logits.movedim(1, -1))
    close(Categorical().log_prob(x.byte(), logits), oracle.log_prob(x).sum((1, 2)))
    close(Categorical().mean(logits), (oracle.probs * torch.arange(256.0)).sum(-1))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("scale", "tails"), SETTINGS)
@pytest.mark.parametrize("levels", [2, 8, 256])
def test_logistic_is_the_difference_of_distribution_functions(
    levels: int, scale: str, tails: bool
) -> None:
    likelihood = DiscretizedLogistic(levels, scale=scale, tails=tails)
    means, log_scales = 0.4 * torch.randn(20), torch.empty(20).uniform_(-2, 1)
    means[0] = 0.7  # beyond the data
    x = torch.cat([torch.tensor([0, levels - 1]), torch.randint(0, levels, (18,))])
    parameters = torch.stack([means, log_scales], 1)[:, : likelihood.n_parameters, None]
    if likelihood.log_scale is not None:
        log_scales = torch.full((20,), -1.3)
        torch.nn.init.constant_(likelihood.log_scale, -1.3)
    expected = [
        plain(int(k), float(m), math.exp(s), levels, tails=tails)
        for k, m, s in zip(x, means, log_scales, strict=True)
    ]
    close(likelihood.log_prob(x[:, None].byte(), parameters), torch.tensor(expected))


def test_a_new_logistic_has_the_scale_one_and_trains_it() -> None:
    likelihood = DiscretizedLogistic()
    found = likelihood.log_prob(torch.tensor([[200.0]]), torch.zeros(1, 1, 1)).sum()
    assert found.item() == pytest.approx(plain(200, 0.0, 1.0, 256, tails=False), abs=1e-4)
    found.backward()
    assert likelihood.log_scale is not None and float(likelihood.log_scale.grad) != 0
    assert list(DiscretizedLogistic(scale="pixel").parameters()) == []


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", [torch.uint8, torch.int64, torch.float32])
def test_float32_agrees_with_float64_whatever_the_kind_of_the_data(
    name: str, kind: torch.dtype
) -> None:
    likelihood = CASES[name]()
    x = torch.randint(0, likelihood.levels, (9, 4, *EVENT))
    parameters = torch.randn(9, likelihood.n_parameters, 4, *EVENT)
    found = likelihood.log_prob(x.to(kind), parameters)
    assert found.dtype == torch.float32
    expected = likelihood.double().log_prob(x, parameters.double())
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("tails", [False, True])
def test_float32_keeps_a_narrow_logistic_far_from_its_mean(tails: bool) -> None:
    """Where both distribution functions are 1 to float32, and their difference 0."""
    likelihood = DiscretizedLogistic(scale="pixel", tails=tails)
    parameters = torch.tensor([-0.25, math.log(0.01)])[None, :, None]
    x = torch.tensor([[64 + 50]])  # 20 scales away
    found = likelihood.log_prob(x, parameters)
    tail = math.exp(-(114 / 256 - 0.25) / 0.01) - math.exp(-(115 / 256 - 0.25) / 0.01)
    expected = math.log(tail + (0.0 if tails else 1e-7))
    assert float(found) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_finite_at_extremes(name: str) -> None:
    likelihood = CASES[name]()
    extremes = torch.tensor([sign * size for size in EXTREME for sign in (-1, 1)] + [0.0])
    numbers = torch.cartesian_prod(*[extremes] * min(2, likelihood.n_parameters))
    numbers = numbers.reshape(len(numbers), -1)
    if likelihood.n_parameters > 2:
        numbers = torch.cat([numbers, numbers[:, :1].expand(-1, likelihood.n_parameters - 2)], 1)
    for level in range(likelihood.levels):
        for shared in (-EXTREME[0], 0.0, EXTREME[0]):
            if isinstance(likelihood, DiscretizedLogistic) and likelihood.log_scale is not None:
                torch.nn.init.constant_(likelihood.log_scale, shared)
            parameters = numbers[..., None].clone().requires_grad_()
            values = likelihood.log_prob(torch.full((len(numbers), 1), level), parameters)
            assert values.isfinite().all()
            inputs = [parameters, *likelihood.parameters()]
            slopes = torch.autograd.grad(values.sum(), inputs)
            assert all(slope.isfinite().all() for slope in slopes)


def test_a_bernoulli_keeps_its_slope_where_it_is_certain_and_wrong() -> None:
    logits = torch.tensor([[[1e4]], [[-1e4]]], requires_grad=True)
    values = Bernoulli().log_prob(torch.tensor([[0], [1]]), logits)
    assert values.tolist() == [-1e4, -1e4]
    (slope,) = torch.autograd.grad(values.sum(), logits)
    assert slope.flatten().tolist() == [-1.0, 1.0]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_differences(name: str) -> None:
    likelihood = CASES[name]()
    x = torch.randint(0, likelihood.levels, (4, 3))
    parameters = (0.2 * torch.randn(4, likelihood.n_parameters, 3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: likelihood.log_prob(x, p), parameters)


@pytest.mark.parametrize("name", CASES)
def test_samples_are_as_frequent_as_they_are_probable(name: str) -> None:
    likelihood, n = CASES[name](), 20000
    if likelihood.n_parameters > 2:
        one = torch.randn(likelihood.n_parameters)
    else:  # a mean near an edge, and tails that count
        one = torch.tensor([0.35, math.log(0.2)])[: likelihood.n_parameters]
    if isinstance(likelihood, DiscretizedLogistic) and likelihood.log_scale is not None:
        torch.nn.init.constant_(likelihood.log_scale, math.log(0.2))
    x = likelihood.sample(one[None, :, None].expand(n, -1, 1))
    assert x.shape == (n, 1) and x.dtype == torch.uint8
    counts = torch.bincount(x.flatten().long(), minlength=likelihood.levels)
    assert len(counts) == likelihood.levels
    p = every_level(likelihood, one[None, :, None]).detach().exp().flatten()
    p = p / p.sum()
    deviations = (counts - n * p) / (n * p * (1 - p)).sqrt()
    assert float(deviations.abs().max()) < 4.5
    expected = (p * torch.arange(likelihood.levels)).sum()
    mean = likelihood.mean(one[None, :, None]).item()
    assert mean == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("event", [(5,), (3, 4, 2)])
def test_shapes(name: str, n: int, event: tuple[int, ...]) -> None:
    likelihood = CASES[name]()
    parameters = torch.randn(n, likelihood.n_parameters, *event)
    x = likelihood.sample(parameters.requires_grad_())
    assert x.shape == (n, *event) and x.dtype == torch.uint8
    assert likelihood.log_prob(x, parameters).shape == (n,)
    mean = likelihood.mean(parameters)
    assert mean.shape == (n, *event) and mean.dtype == parameters.dtype
    assert ((mean >= 0) & (mean <= likelihood.levels - 1)).all()


@pytest.mark.parametrize("tails", [False, True])
def test_a_sample_of_a_mean_beyond_the_data_is_at_its_edge(tails: bool) -> None:
    likelihood = DiscretizedLogistic(scale="pixel", tails=tails)
    parameters = torch.tensor([[-1e4, -1e4], [1e4, -1e4]])[..., None]
    assert likelihood.sample(parameters).flatten().tolist() == [0, 255]
    assert likelihood.mean(parameters).flatten().tolist() == pytest.approx([0, 255], abs=0.02)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: observation("gauss", 2), "one of bernoulli, categorical, logistic; got 'gauss'"),
        (lambda: observation("bernoulli", 256), "expected 2 for bernoulli, got 256"),
        (lambda: observation("logistic", None), "from 2 to 256, got None"),
        (lambda: observation("categorical", 1), "from 2 to 256, got 1"),
        (lambda: observation("categorical", 1000), "from 2 to 256, got 1000"),
        (lambda: observation("logistic", 8, scale="row"), "global, pixel; got 'row'"),
        (
            lambda: Categorical(7).log_prob(torch.zeros(2, 3), torch.zeros(2, 8, 3)),
            r"expected \(2, 7, 3\) for data \(2, 3\) and Categorical, got \(2, 8, 3\)",
        ),
        (
            lambda: Bernoulli().log_prob(torch.zeros(2, 3), torch.zeros(1, 1, 3)),
            r"expected \(2, 1, 3\)",
        ),
    ],
)
def test_what_cannot_be_is_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_a_logistic_takes_its_settings_by_name() -> None:
    likelihood = observation("logistic", 32, scale="pixel", tails=True)
    assert isinstance(likelihood, DiscretizedLogistic)
    assert (likelihood.levels, likelihood.n_parameters, likelihood.tails) == (32, 2, True)
    assert observation("bernoulli", 2).n_parameters == 1
    assert observation("categorical", 16).n_parameters == 16
