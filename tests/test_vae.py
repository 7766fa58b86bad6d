"""Autoencoders: against a linear-Gaussian one whose likelihood is known, and their parts."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from nfbench.distributions.observation import Observation
from nfbench.flows import FLOWS
from nfbench.flows.flow import Flow
from nfbench.objectives.elbo import check_elbo, elbo
from nfbench.transforms.base import Compose
from nfbench.transforms.lu import LULinear
from nfbench.vae import VAE, LatentVariableModel, Terms, active_units

D, Z, NOISE = 5, 3, 0.4


class Normal(Observation):
    """Real data: N(mean, NOISE^2), the mean as the decoder says."""

    n_parameters = 1

    def __init__(self) -> None:
        super().__init__(2)  # so that the encoder's input is not rescaled

    def log_terms(self, x: Tensor, parameters: Tensor) -> Tensor:
        """Log-density of each dimension in nats."""
        found: Tensor = torch.distributions.Normal(parameters[:, 0], NOISE).log_prob(x)
        return found

    def sample(self, parameters: Tensor) -> Tensor:
        """A draw for each row."""
        return parameters[:, 0] + NOISE * torch.randn_like(parameters[:, 0])

    def mean(self, parameters: Tensor) -> Tensor:
        """The mean of each row."""
        return parameters[:, 0]


class Linear(nn.Module):
    """x = W z + c, behind an axis of one parameter."""

    def __init__(self, weight: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("shift", shift)

    def forward(self, z: Tensor) -> Tensor:
        """(B, Z) -> (B, 1, D)."""
        return (z @ self.weight.T + self.shift)[:, None]  # type: ignore[operator,index]


class World:
    """z ~ N(0, 1), x = W z + c + NOISE e: its marginal and its posterior in closed form."""

    def __init__(self, seed: int = 0) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(D, Z, generator=draw, dtype=torch.float64)
        self.shift = torch.randn(D, generator=draw, dtype=torch.float64)
        precision = torch.eye(Z).double() + self.weight.T @ self.weight / NOISE**2
        self.covariance = torch.linalg.inv(precision)
        self.gain = self.covariance @ self.weight.T / NOISE**2
        marginal = self.weight @ self.weight.T + NOISE**2 * torch.eye(D).double()
        self.marginal = torch.distributions.MultivariateNormal(self.shift, marginal)

    def data(self, n: int, seed: int = 1) -> Tensor:
        """n rows of data."""
        torch.manual_seed(seed)
        return self.marginal.sample((n,))


def autoencoder(world: World, flow: Flow, *, features: int = D) -> VAE:
    """A VAE with the world's own decoder, and an encoder that hands the data on."""
    return VAE(
        nn.Identity(),
        flow,
        Linear(world.weight, world.shift),
        Normal(),
        latent=Z,
        features=features,
    ).double()


def inverse_softplus(y: float) -> float:
    return math.log(math.expm1(y))


def optimal(world: World) -> VAE:
    """The VAE whose posterior is the true one: N(0, 1) noise through a factor of its covariance.

    The affine map of the noise carries the factor L, the mean of the Gaussian L^-1 gain (x - c).
    """
    factor = torch.linalg.cholesky(world.covariance)

    class Factor(LULinear):
        def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
            back = torch.linalg.solve_triangular(factor, x.T, upper=False).T
            return back, -factor.diagonal().log().sum().expand(len(x))

        def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
            return z @ factor.T, factor.diagonal().log().sum().expand(len(z))

    base = FLOWS["identity"]([Z]).base
    model = autoencoder(world, Flow(base, Compose([Factor(Z)])))
    with torch.no_grad():
        to_noise = torch.linalg.inv(factor) @ world.gain
        model.mean.weight.copy_(to_noise)
        model.mean.bias.copy_(-to_noise @ world.shift)
        model.variance.weight.zero_()
        model.variance.bias.fill_(inverse_softplus(1.0))
    return model


def test_the_bound_of_the_true_posterior_is_the_likelihood_for_every_draw() -> None:
    world = World()
    model, x = optimal(world).eval(), world.data(64)
    exact = world.marginal.log_prob(x)
    for _ in range(3):
        torch.testing.assert_close(model.log_prob(x), exact, rtol=0, atol=1e-10)
    torch.testing.assert_close(model.bound(x, 7), exact, rtol=0, atol=1e-10)
    assert model.likelihood == "lower bound"


def test_the_parts_of_the_bound_are_what_they_are_called() -> None:
    world = World()
    model, x = optimal(world), world.data(5)
    torch.manual_seed(3)
    terms = model.terms(x)
    torch.manual_seed(3)
    z = model.latents(model.encode(x))
    posterior = torch.distributions.MultivariateNormal(
        (x - world.shift) @ world.gain.T, world.covariance
    )
    likelihood = torch.distributions.Normal(z @ world.weight.T + world.shift, NOISE).log_prob(x)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z)
    torch.testing.assert_close(terms.log_posterior[:, 0], posterior.log_prob(z))
    torch.testing.assert_close(terms.log_likelihood, likelihood.sum(1))
    torch.testing.assert_close(terms.log_prior[:, 0], prior.sum(1))


@pytest.fixture(scope="module")
def diagonal() -> tuple[World, VAE]:
    """The best that a diagonal Gaussian can do: its mean exact, its precision the diagonal's."""
    world = World()
    model = autoencoder(world, FLOWS["identity"]([Z], context_features=D)).eval()
    variance = 1 / torch.linalg.inv(world.covariance).diagonal()
    with torch.no_grad():
        model.mean.weight.copy_(world.gain)
        model.mean.bias.copy_(-world.gain @ world.shift)
        model.variance.weight.zero_()
        model.variance.bias.copy_(variance.expm1().log())
    return world, model


@torch.no_grad()
def test_the_diagonal_gaussian_misses_its_divergence_in_closed_form(
    diagonal: tuple[World, VAE],
) -> None:
    world, model = diagonal
    x = world.data(20_000)
    precision = torch.linalg.inv(world.covariance)
    gap = 0.5 * (precision.diagonal().log().sum() + torch.linalg.slogdet(world.covariance)[1])
    assert gap > 0.1  # else nothing is told apart
    missed = world.marginal.log_prob(x) - model.log_prob(x)
    error = missed.std() / math.sqrt(len(x))
    assert abs(missed.mean() - gap) < 4 * error


@torch.no_grad()
def test_more_importance_samples_raise_the_bound_to_the_likelihood(
    diagonal: tuple[World, VAE],
) -> None:
    world, model = diagonal
    x = world.data(500)
    exact = world.marginal.log_prob(x)
    last = None
    for draws in (1, 16, 256, 4096):
        torch.manual_seed(draws)
        found = model.bound(x, draws)
        assert found.dtype == torch.float64
        missed = exact - found
        error = float(missed.std()) / math.sqrt(len(x))
        assert missed.mean() > -3 * error  # a lower bound
        if last is not None:
            assert missed.mean() < last[0] + 3 * math.hypot(error, last[1])
            assert missed.mean() < last[0]
        last = float(missed.mean()), error
    assert last is not None and abs(last[0]) < 0.01 + 3 * last[1]


@pytest.mark.parametrize("draws", [1, 3, 10])
def test_draws_in_chunks_are_those_of_the_mean(
    draws: int, monkeypatch: pytest.MonkeyPatch, diagonal: tuple[World, VAE]
) -> None:
    world, model = diagonal
    x = world.data(4)
    values: list[Tensor] = []
    explain = VAE.explain

    def kept(self: VAE, rows: Tensor, code: object) -> Terms:
        terms = explain(self, rows, code)  # type: ignore[arg-type]
        values.append(terms.bound.view(4, -1))
        torch.testing.assert_close(rows[:: rows.shape[0] // 4], x)
        return terms

    monkeypatch.setattr(VAE, "explain", kept)
    monkeypatch.setattr("nfbench.vae.ROWS_AT_ONCE", 12)  # three draws of four rows
    found = model.bound(x, draws)
    each = torch.cat(values, 1)
    assert each.shape == (4, draws) and len(values) == math.ceil(draws / 3)
    torch.testing.assert_close(found, each.exp().mean(1).log())


def test_a_trained_full_covariance_posterior_reaches_the_likelihood() -> None:
    world = World()
    torch.manual_seed(0)
    base = FLOWS["identity"]([Z]).base
    flow = Flow(base, Compose([LULinear(Z)]))  # a factor of any covariance
    model = autoencoder(world, flow)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 800)
    rows = world.data(20_000, seed=2)
    for step in range(800):
        optimizer.zero_grad()
        elbo(model, rows[128 * step % 19_872 :][:128]).backward()
        optimizer.step()
        schedule.step()
    x = world.data(20_000)
    with torch.no_grad():
        missed = world.marginal.log_prob(x) - model.log_prob(x)
    error = float(missed.std()) / math.sqrt(len(x))
    assert -3 * error < missed.mean() < 0.01 + 3 * error


def test_active_units_are_those_that_move_with_the_data(diagonal: tuple[World, VAE]) -> None:
    world, model = diagonal
    x = world.data(3000)
    assert active_units(model, x, 1000) == Z
    weight = model.mean.weight.detach().clone()
    with torch.no_grad():
        model.mean.weight[1] = 0
        assert active_units(model, x, 1000) == Z - 1
        model.mean.weight[1] = 0.05 * weight[1] / (weight[1] @ world.data(3000).T).std()
        assert active_units(model, x, 1000) == Z - 1  # its variance is 0.0025
        model.mean.weight[1] = 0.2 * weight[1] / (weight[1] @ world.data(3000).T).std()
        assert active_units(model, x, 1000) == Z  # 0.04
        model.mean.weight.copy_(weight)


class Fixed(LatentVariableModel):
    """A model whose terms are given."""

    def __init__(self, terms: Terms) -> None:
        super().__init__()
        self.given = terms

    def explain(self, x: Tensor, code: Tensor) -> Terms:
        """The given ones."""
        return self.given

    def encode(self, x: Tensor) -> Tensor:
        """The data."""
        return x

    def latents(self, code: Tensor) -> Tensor:
        """None."""
        return torch.zeros(len(code), 1)

    def sample(self, n: int, context: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
        """None."""
        return torch.zeros(n, 1)


def test_the_objective_anneals_and_leaves_bits_free_group_by_group() -> None:
    likelihood = torch.tensor([-10.0, -20.0])
    prior = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])
    posterior = torch.tensor([[0.0, 1.0], [2.0, -3.5]])
    model, x = Fixed(Terms(likelihood, prior, posterior)), torch.zeros(2, 1)
    # Rates of the groups: means of (1, 5) and of (3, 0.5).
    assert elbo(model, x) == pytest.approx(15 + 3 + 1.75)
    assert elbo(model, x, None, 0.5) == pytest.approx(15 + 0.5 * (3 + 1.75))
    assert elbo(model, x, free_bits=2.0) == pytest.approx(15 + 3 + 2)
    assert elbo(model, x, free_bits=4.0) == pytest.approx(15 + 4 + 4)
    joint = elbo(model, x, None, 0.5, tempering="joint")
    # log q - (log p(x | z) + log p(z)) / 2, means over the batch.
    assert joint == pytest.approx((1 - 1.5) / 2 - 0.5 * (-15 - 5))
    assert elbo(model, x, tempering="joint") == pytest.approx(elbo(model, x))
    torch.testing.assert_close(model.log_prob(x), torch.tensor([-10.0 - 4, -20.0 - 5.5]))


def test_refusals() -> None:
    world = World()
    flow = FLOWS["maf"]([Z], context_features=D, layers=1)  # with batch norm
    with pytest.raises(ValueError, match="batch_norm"):
        autoencoder(world, flow)
    identity = FLOWS["identity"]([Z], context_features=D)
    make = partial(VAE, nn.Identity(), identity, nn.Identity(), Normal(), latent=Z, features=D)
    for bounds in ([1.0], [2.0, 1.0], [0.0, 1.0]):
        with pytest.raises(ValueError, match="variance_bounds"):
            make(variance_bounds=bounds)
    model = make()
    with pytest.raises(ValueError, match="context: expected none"):
        model.log_prob(torch.zeros(2, D), torch.zeros(2, 1))
    bad = torch.zeros(2, D)
    bad[1] = math.nan
    with pytest.raises(ValueError, match="row 1"):
        model.eval().log_prob(bad)
    with pytest.raises(ValueError, match="expected an autoencoder"):
        check_elbo(identity)
    with pytest.raises(ValueError, match="free_bits: expected 0"):
        check_elbo(model, free_bits=1.0, tempering="joint")
    estimate = FLOWS["ffjord"]([Z], context_features=D, hidden=(4,), exact_dims=Z - 1)
    with pytest.raises(ValueError, match="importance_draws: expected 1, got 2"):
        VAE(
            nn.Identity(),
            estimate,
            nn.Identity(),
            Normal(),
            latent=Z,
            features=D,
            importance_draws=2,
        )


def test_the_variance_is_cut_to_its_bounds() -> None:
    identity = FLOWS["identity"]([Z], context_features=D)
    model = VAE(
        nn.Identity(),
        identity,
        nn.Identity(),
        Normal(),
        latent=Z,
        features=D,
        variance_bounds=[0.01, 7.0],
    )
    with torch.no_grad():
        model.variance.bias.copy_(torch.tensor([-100.0, 0.0, 100.0]))
        model.variance.weight.zero_()
        std = model.encode(torch.zeros(1, D)).std[0]
    torch.testing.assert_close(std.square(), torch.tensor([0.01, math.log(2.0), 7.0]))
