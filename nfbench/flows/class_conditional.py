"""A flow for each class, in one conditional flow, and their mixture."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from nfbench.density import DensityModel

from .flow import Flow


class ClassConditional(DensityModel):
    """``log p(x) = logsumexp_c log p(x | c) - log C``: the label marginalized, all C as likely.

    Given labels (B,) as context, ``log p(x | label)``, which is what is trained (Papamakarios et
    al. 2017, section 4.3 and authors' code). The flow is conditioned on the label's one-hot code.

    Raises:
        ValueError: when called, if labels are not integers (B,); in evaluation, if they are not
            below C.
    """

    def __init__(self, flow: Flow, n_classes: int) -> None:
        super().__init__()
        self.flow, self.n_classes = flow, n_classes

    @property
    def likelihood(self) -> str:
        """That of the flow: the sum over labels is exact."""
        return self.flow.likelihood

    def codes(self, labels: Tensor, n: int) -> Tensor:
        """Labels (n,) as one-hot codes (n, C), in the dtype of the flow."""
        if labels.shape != (n,) or labels.is_floating_point():
            raise ValueError(
                f"context: expected integer labels ({n},), got {labels.dtype} of shape "
                f"{tuple(labels.shape)}"
            )
        # In training they are those of the data set, which were checked; to ask would wait.
        if not (self.training or ((labels >= 0) & (labels < self.n_classes)).all()):
            raise ValueError(
                f"context: expected labels in 0..{self.n_classes - 1}, got "
                f"{labels.min().item()} to {labels.max().item()}"
            )
        return F.one_hot(labels.long(), self.n_classes).to(next(self.parameters()).dtype)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-likelihood of each row (B, D) in nats, shape (B,): of its label if given."""
        if context is not None:
            return self.flow.log_prob(x, self.codes(context, len(x)))
        return self.log_probs(x).logsumexp(0) - math.log(self.n_classes)

    def log_probs(self, x: Tensor) -> Tensor:
        """Log-likelihood of each row (B, D) in nats for each label, shape (C, B)."""
        terms = [
            self.flow.log_prob(x, code.expand(len(x), -1))
            for code in torch.eye(self.n_classes, dtype=x.dtype, device=x.device)
        ]
        return torch.stack(terms)

    def sample(self, n: int, context: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
        """Draw n rows (n, D), of random labels unless they are given."""
        if context is None:
            device = next(self.parameters()).device
            context = torch.randint(self.n_classes, (n,), device=device)
        return self.flow.sample(n, self.codes(context, n), temperature=temperature)

    @property
    def needs_calibration(self) -> bool:
        """Whether the flow needs statistics of the training set."""
        return self.flow.needs_calibration

    @torch.no_grad()
    def calibrate(self, x: Tensor, context: Tensor | None = None) -> None:
        """Set the flow's statistics from the training set (N, D) with its labels (N,).

        Raises:
            ValueError: if there are no labels.
        """
        if context is None:
            raise ValueError(f"context: expected the labels of {len(x)} training rows, got none")
        self.flow.calibrate(x, self.codes(context, len(x)))
