"""A normalizing flow: a base distribution behind one composed transform."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nfbench.density import DensityModel
from nfbench.distributions.base import Distribution
from nfbench.transforms.base import Compose, Transform


class Flow(DensityModel):
    """``log p(x) = log p_base(z) + log|det dz/dx|``, ``z = transform(x)``; sampling inverts it."""

    def __init__(self, base: Distribution, transform: Transform) -> None:
        super().__init__()
        self.base, self.transform = base, transform

    @property
    def likelihood(self) -> str:
        """What ``log_prob`` is: exact, an estimate, or a lower bound."""
        return self.transform.likelihood

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-likelihood of each row of data (B, *event) in nats, shape (B,).

        Raises:
            ValueError: in evaluation, if a row is not finite; names the first.
        """
        if not self.training and not x.is_meta:
            check_finite(x)
        z, log_det = self.transform(x, context)
        return self.base.log_prob(z, context) + log_det

    def sample(self, n: int, context: Tensor | None = None) -> Tensor:
        """Draw n rows of data (n, *event); a context has n rows."""
        x, _ = self.transform.inverse(self.base.sample(n, context), context)
        return x

    @property
    def needs_calibration(self) -> bool:
        """Whether statistics of the training set must be set before evaluation."""
        return self.transform.needs_calibration

    @torch.no_grad()
    def calibrate(self, x: Tensor, context: Tensor | None = None) -> None:
        """Set the statistics that the transform takes from the training set (N, *event)."""
        training = self.training
        self.eval()
        try:
            self.transform.calibrate(x, context)
        finally:
            self.train(training)

    def after(self, transforms: Sequence[Transform]) -> "Flow":
        """The same flow on data that pass through ``transforms`` first."""
        return Flow(self.base, Compose([*transforms, self.transform])) if transforms else self


def check_finite(x: Tensor) -> None:
    """Refuse data (B, *event) with NaN or infinity, and name the first such row."""
    if not torch.isfinite(x).all():
        bad = torch.nonzero(~torch.isfinite(x.flatten(1)).all(1)).flatten()
        raise ValueError(
            f"data: expected finite values, got NaN or infinity in {len(bad)} of {len(x)} rows, "
            f"the first of them row {int(bad[0])}"
        )
