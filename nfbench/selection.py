"""Which weights are kept and when training stops: decided by the validation split alone.

Imports no torch.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Selection:
    """The best validation so far, and how long ago it was.

    Args:
        patience: validations without improvement after which training stops, or None.
        plateau_patience: validations without improvement after which the learning rate is cut, or
        None. plateau_factor: what a cut multiplies the learning rate by.
    """

    patience: int | None = None
    plateau_patience: int | None = None
    plateau_factor: float = 0.5
    best: float = -math.inf
    best_step: int = 0
    waited: int = 0  # validations since the best
    waited_for_cut: int = 0  # validations since the best or the last cut
    rate_factor: float = 1.0

    def update(self, step: int, log_likelihood: float) -> bool:
        """Take in a validation; tell whether it is the best yet: never one that is not finite."""
        if math.isfinite(log_likelihood) and log_likelihood > self.best:
            self.best, self.best_step, self.waited, self.waited_for_cut = (
                log_likelihood,
                step,
                0,
                0,
            )
            return True
        self.waited += 1
        self.waited_for_cut += 1
        if self.plateau_patience is not None and self.waited_for_cut >= self.plateau_patience:
            self.rate_factor *= self.plateau_factor
            self.waited_for_cut = 0
        return False

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.waited >= self.patience

    def state(self) -> dict[str, Any]:
        """All of it as plain values, for a checkpoint."""
        return asdict(self)
