"""A model behind fixed maps of its data."""

import torch
from torch import Tensor

from nfbench.density import DensityModel
from nfbench.transforms.base import Compose, weakest


class Preprocessed(DensityModel):
    """``log p(x) = log p_model(y) + log|det dy/dx|``, ``y = preprocessing(x)``.

    Dequantization, logit and reshaping stand here, apart from the model: papers quote the model's
    own log p(y), and a mixture over labels dequantizes once. What the preprocessing learns, the
    noise of a variational dequantization, is trained with the model.

    Args:
        preprocessing: the maps in order, data first.
        model: of what they give.
        importance_draws: how many draws of the noise the test's importance-weighted bound takes.
    """

    def __init__(
        self, preprocessing: Compose, model: DensityModel, *, importance_draws: int = 1
    ) -> None:
        super().__init__()
        self.preprocessing, self.model = preprocessing, model
        self.importance_draws = importance_draws

    @property
    def likelihood(self) -> str:
        """The weaker claim of the two parts."""
        return weakest([self.preprocessing.likelihood, self.model.likelihood])

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-likelihood of each row of data (B, *event) in nats, shape (B,)."""
        y, log_det = self.preprocessing(x)
        return self.model.log_prob(y, context) + log_det

    def sample(self, n: int, context: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
        """Draw n rows of data (n, *event), of the model's temperature; a context has n rows."""
        y = self.model.sample(n, context, temperature=temperature)
        x, _ = self.preprocessing.inverse(y)
        return x

    @property
    def needs_calibration(self) -> bool:
        """Whether the model needs statistics of the training set."""
        return self.model.needs_calibration

    @torch.no_grad()
    def calibrate(self, x: Tensor, context: Tensor | None = None) -> None:
        """Set the model's statistics from the training set (N, *event), preprocessed."""
        self.model.calibrate(self.preprocessing.calibrate(x), context)
