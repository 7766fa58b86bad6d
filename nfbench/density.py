"""What the harness asks of a model: a density that can be sampled."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from nfbench.metrics import log_mean_exp


class DensityModel(nn.Module, ABC):
    """Anything with a log-likelihood and samples: a flow is one, a VAE another.

    ``importance_draws`` is how many draws of its noise the test's importance-weighted bound takes;
    one where there is no noise.
    """

    importance_draws: int = 1

    @property
    @abstractmethod
    def likelihood(self) -> str:
        """What ``log_prob`` is: exact, an estimate, or a lower bound."""

    @abstractmethod
    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-likelihood of each row of data (B, *event) in nats, shape (B,)."""

    @abstractmethod
    def sample(self, n: int, context: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
        """Draw n rows of data (n, *event); a context has n rows.

        The noise that they are made of is scaled by the temperature; 1 samples the density.

        Raises:
            ValueError: if the temperature is negative or not finite, or if it is not 1 and there
                is no such noise.
        """

    def bound(self, x: Tensor, draws: int) -> Tensor:
        """``log (1/K) sum_k exp log_prob_k`` (B,) over K draws of the model's noise, float64.

        The importance-weighted bound (Burda et al. 2015, equation 8).
        """
        return log_mean_exp(self.log_prob(x) for _ in range(draws))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The log-likelihood, where a module is called."""
        return self.log_prob(x, context)

    @property
    def needs_calibration(self) -> bool:
        """Whether statistics of the training set must be set before evaluation."""
        return False

    def calibrate(self, x: Tensor, context: Tensor | None = None) -> None:
        """Set the statistics that the model takes from the training set (N, *event)."""
