"""A variational autoencoder: a density model whose log-likelihood is bounded from below."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nfbench.density import DensityModel
from nfbench.distributions.base import StandardNormal
from nfbench.distributions.observation import Observation
from nfbench.flows.flow import Flow, check_finite
from nfbench.flows.posterior import check_posterior
from nfbench.metrics import log_mean_exp

ROWS_AT_ONCE = 2048  # of images times draws that are decoded together
ACTIVE = 0.01  # the variance above which a latent unit is active
ACTIVE_DRAWS = 16  # for each of the two means that the activity of a latent unit is told by


@dataclass(frozen=True)
class Terms:
    """What the bound of each row is made of, in nats; latents in groups, G of them.

    ``log_likelihood`` (B,) is log p(x | z), ``log_prior`` and ``log_posterior`` (B, G) are
    log p(z) and log q(z | x) of z drawn from q.
    """

    log_likelihood: Tensor
    log_prior: Tensor
    log_posterior: Tensor

    @property
    def rates(self) -> Tensor:
        """One draw of the divergence from the prior of each group, (B, G)."""
        return self.log_posterior - self.log_prior

    @property
    def bound(self) -> Tensor:
        """``log p(x | z) + log p(z) - log q(z | x)`` (B,), at most log p(x) in expectation."""
        return self.log_likelihood - self.rates.sum(1)


class LatentVariableModel(DensityModel):
    """A model whose ``log_prob`` is the evidence lower bound with one draw of z."""

    observation: Observation

    @property
    def levels(self) -> int:
        """The number of values of a dimension of the data."""
        return self.observation.levels

    @property
    def likelihood(self) -> str:
        """What ``log_prob`` is."""
        return "lower bound"

    @abstractmethod
    def encode(self, x: Tensor) -> Any:
        """The code of rows of data (B, *event): what q(z | x) is made of."""

    @abstractmethod
    def explain(self, x: Tensor, code: Any) -> Terms:
        """The parts of the bound of rows with their code, with a draw of z for each."""

    @abstractmethod
    def latents(self, code: Any) -> Tensor:
        """A draw of z for each row of a code, flat: (B, Z)."""

    def terms(self, x: Tensor) -> Terms:
        """The parts of the bound of each row of data (B, *event), with a draw of z for each."""
        return self.explain(x, self.encode(x))

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """A draw of the evidence lower bound of each row (B, *event) in nats, shape (B,).

        Raises:
            ValueError: if there is a context, which no such model takes; in evaluation, if a row
                is not finite.
        """
        if context is not None:
            raise ValueError("context: expected none, as this autoencoder is unconditional")
        if not self.training and x.is_floating_point():
            check_finite(data=x)
        return self.terms(x).bound


@dataclass(frozen=True)
class Code:
    """What an encoder says of rows of data: a Gaussian, and what conditions the flow after it.

    ``mean`` and ``std`` are (B, Z), ``features`` (B, H).
    """

    mean: Tensor
    std: Tensor
    features: Tensor

    def repeated(self, times: int) -> "Code":
        """Each row several times, one after the other."""
        return Code(*(x.repeat_interleave(times, 0) for x in (self.mean, self.std, self.features)))


class VAE(LatentVariableModel):
    """``log p(x) >= E_q[log p(x | z) + log p(z) - log q(z | x)]``, p(z) standard normal.

    The posterior is a Gaussian moved by a flow, noise -> data, that is conditioned on the
    encoder's features h(x): z = T(z_0; h), z_0 ~ N(mu(x), sigma(x)^2), log q(z | x) =
    log N(z_0) - log|det dz/dz_0| (Kingma & Welling 2014; Rezende & Mohamed 2015, equation 15).

    Args:
        encoder: (B, *event) in [0, 1] -> features (B, H).
        flow: of z (Z,), given H context features; its base is not used.
        decoder: (B, Z) -> (B, n_parameters, *event).
        observation: p(x | z), given what the decoder says.
        latent: Z. features: H.
        variance_bounds: the least and the largest sigma^2, or nothing.
        importance_draws: how many z the test's importance-weighted bound takes.

    Raises:
        ValueError: if the flow cannot be trained from noise to data, if bounds are no interval,
            or if many draws are asked of a flow whose log-determinant is an estimate.
    """

    def __init__(
        self,
        encoder: nn.Module,
        flow: Flow,
        decoder: nn.Module,
        observation: Observation,
        *,
        latent: int,
        features: int,
        variance_bounds: Sequence[float] = (),
        importance_draws: int = 1,
    ) -> None:
        super().__init__()
        check_posterior(flow)
        check_bounds(variance_bounds)
        if importance_draws > 1 and flow.likelihood == "estimate":
            raise ValueError(
                f"importance_draws: expected 1, got {importance_draws}; log q is an estimate in "
                f"{latent} dimensions, and the mean of its exponential is no bound "
                "(flow.exact_dims makes it exact)"
            )
        self.encoder, self.flow, self.decoder = encoder, flow, decoder
        self.observation, self.latent = observation, latent
        self.variance_bounds, self.importance_draws = tuple(variance_bounds), importance_draws
        self.mean = nn.Linear(features, latent)
        self.variance = nn.Linear(features, latent)
        self.prior = StandardNormal([latent])

    def encode(self, x: Tensor) -> Code:
        """The Gaussian and the features of rows of data (B, *event)."""
        features = self.encoder(x.to(self.mean.weight.dtype) / (self.levels - 1))
        variance = F.softplus(self.variance(features))
        if self.variance_bounds:
            variance = variance.clamp(*self.variance_bounds)
        return Code(self.mean(features), variance.sqrt(), features)

    def draw(self, code: Code) -> tuple[Tensor, Tensor]:
        """A z (B, Z) of each row and log q(z | x) (B,)."""
        noise = torch.randn_like(code.mean)
        z, log_det = self.flow.transform.inverse(code.mean + code.std * noise, code.features)
        return z, self.prior.log_prob(noise) - code.std.log().sum(1) - log_det

    def explain(self, x: Tensor, code: Code) -> Terms:
        """The parts of the bound, with a draw of z for each row."""
        z, log_posterior = self.draw(code)
        log_likelihood = self.observation.log_prob(x, self.decoder(z))
        return Terms(log_likelihood, self.prior.log_prob(z)[:, None], log_posterior[:, None])

    def latents(self, code: Code) -> Tensor:
        """A draw of z (B, Z) for each row of a code, without its density."""
        start = code.mean + code.std * torch.randn_like(code.mean)
        return self.flow.transform.generate(start, code.features)

    def decode(self, z: Tensor) -> Tensor:
        """The mean of p(x | z) in levels, float (B, *event), of latents (B, Z)."""
        return self.observation.mean(self.decoder(z))

    def bound(self, x: Tensor, draws: int) -> Tensor:
        """``log (1/K) sum_k p(x, z_k) / q(z_k | x)`` (B,), float64; each row is encoded once."""
        code = self.encode(x)
        at_once = max(1, min(draws, ROWS_AT_ONCE // max(1, len(x))))
        found = []
        for start in range(0, draws, at_once):
            times = min(at_once, draws - start)
            rows = x.repeat_interleave(times, 0)
            values = self.explain(rows, code.repeated(times)).bound
            found.append(values.view(len(x), times))
        return log_mean_exp(torch.cat(found, 1).unbind(1))

    def sample(self, n: int, context: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
        """Draw n rows of data (n, *event) from p(x | z), z of the prior times the temperature."""
        z = self.prior.sample(n, temperature=temperature)
        return self.observation.sample(self.decoder(z))


def check_bounds(bounds: Sequence[float]) -> None:
    """Refuse bounds of a variance that are no interval of positive numbers."""
    if bounds and not (len(bounds) == 2 and 0 < bounds[0] < bounds[1]):
        raise ValueError(
            f"variance_bounds: expected [] or [least, largest] of a variance, got {list(bounds)}"
        )


@torch.no_grad()
def active_units(model: LatentVariableModel, rows: Tensor, batch_size: int) -> int:
    """How many latents move with the data: Var_x(E_q[z | x]) > 0.01 (Burda et al. 2015, 2.1).

    The variance over rows of data (N, *event) is estimated by the covariance of two means over
    draws that are independent of each other, so that what they are off by does not count.
    """
    first = second = product = torch.zeros((), dtype=torch.float64)
    for each in rows.split(batch_size):
        code = model.encode(each)
        one, other = mean_latents(model, code), mean_latents(model, code)
        first, second = first + one.sum(0).cpu(), second + other.sum(0).cpu()
        product = product + (one * other).sum(0).cpu()
    covariance = (product - first * second / len(rows)) / max(1, len(rows) - 1)
    return int((covariance > ACTIVE).sum())


def mean_latents(model: LatentVariableModel, code: Any) -> Tensor:
    """The mean (B, Z) over draws of z, float64; one draw is kept at a time."""
    total = model.latents(code).double()
    for _ in range(ACTIVE_DRAWS - 1):
        total += model.latents(code)
    return total / ACTIVE_DRAWS
