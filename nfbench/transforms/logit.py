"""From the unit interval to the real line."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Transform

# By the name of the form, how often alpha is taken off the unit interval.
FORMS = {"symmetric": 2, "one_sided": 1}


class Logit(Transform):
    """``z = logit(s)``, ``s = alpha + scale x``, x in [0, 1).

    ``symmetric``: scale = 1 - 2 alpha (Papamakarios et al. 2017, section 4.3; the released code of
    Dinh et al. 2016). ``one_sided``: scale = 1 - alpha (Dinh et al. 2016, section 4.1), where s
    has no bound below 1. log_det = sum_d [log scale - log s_d - log(1 - s_d)].

    Raises:
        ValueError: if ``alpha`` is outside [0, 1/2), or ``form`` is neither.
    """

    def __init__(self, alpha: float, *, form: str = "symmetric") -> None:
        super().__init__()
        if not 0 <= alpha < 0.5:
            raise ValueError(f"logit: expected alpha in [0, 0.5), got {alpha}")
        if form not in FORMS:
            raise ValueError(f"logit_form: expected one of {', '.join(FORMS)}; got {form!r}")
        self.alpha, self.scale = alpha, 1 - FORMS[form] * alpha
        self.gap = (FORMS[form] - 1) * alpha  # between s and 1

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map the unit interval (B, *event) to the real line."""
        x = self.off_zero(x)
        s = self.alpha + self.scale * x
        # 1 - s would lose what is left of it in float32 where x is close to 1; 1 - x does not.
        z = torch.log(s) - torch.log(self.gap + self.scale * (1 - x))
        return z, self.log_det(z)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map the real line to the unit interval; noise out of the logit's range lands outside."""
        x = (torch.sigmoid(z) - self.alpha) / self.scale
        if not self.gap:  # rounding must not carry it to 1, from where there is no way back
            x = x.clamp(max=1 - torch.finfo(x.dtype).eps / 2)
        return self.off_zero(x), -self.log_det(z)

    def off_zero(self, x: Tensor) -> Tensor:
        """The same, but without alpha never 0, which noise may be and whose logit is infinite."""
        return x if self.alpha else torch.where(x == 0, torch.finfo(x.dtype).tiny, x)

    def log_det(self, z: Tensor) -> Tensor:
        """log|det dz/dx| at the logit z: -log s - log(1 - s) = softplus(z) + softplus(-z)."""
        return (math.log(self.scale) + F.softplus(z) + F.softplus(-z)).flatten(1).sum(1)
