"""Radial maps: contractions and expansions around points."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nfbench.nets.amortized import Amortized

from .base import Transform, no_volume_change
from .elementwise import SOFTPLUS_SHIFT

SPREAD = 0.1  # of the first strengths: close to the identity, every layer its own


class Radial(Transform):
    """``f(x) = x + b (x - x0) / (a + r)``, r = |x - x0|, ``layers`` times.

    Rezende & Mohamed 2015, equation 14; ``a = softplus(alpha)`` and ``b = softplus(beta) - a``
    make it invertible (appendix A.2). With s = a + b = softplus(beta) and g = a / (a + r),

        f(x) - x0 = (x - x0) (s + r) / (a + r),
        log_det = (D - 1) log((s + r) / (a + r)) + log((r + g (s + r)) / (a + r)),

    in which nothing cancels. The inverse needs no iteration: the image's radius rho = r (s + r) /
    (a + r) is a quadratic in r, whose positive root is taken in the form that does not cancel.

    With ``context_features`` x0 (B, layers, D), alpha and beta are linear in the context.
    """

    def __init__(self, features: int, *, layers: int, context_features: int = 0) -> None:
        super().__init__()
        self.features, self.layers = features, layers
        alpha = torch.full((layers, 1), SOFTPLUS_SHIFT)
        beta = alpha + SPREAD * torch.randn(layers, 1)
        self.center = Amortized(torch.randn(layers, features), context_features=context_features)
        self.alpha = Amortized(alpha, context_features=context_features)
        self.beta = Amortized(beta, context_features=context_features)

    def maps(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """x0 (layers, D), a and s (layers, 1), one of each for every row if amortized."""
        eps = torch.finfo(self.alpha.value.dtype).eps
        a = F.softplus(self.alpha(context)).clamp_min(eps)
        s = F.softplus(self.beta(context)).clamp_min(eps)
        return self.center(context), a, s

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data (B, D) to noise in closed form."""
        return self.through(x, *self.maps(context), backwards=False)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map noise (B, D) to data in closed form, the last layer first."""
        center, a, s = (each.flip(-2) for each in self.maps(context))
        return self.through(z, center, a, s, backwards=True)

    def through(
        self, x: Tensor, center: Tensor, a: Tensor, s: Tensor, *, backwards: bool
    ) -> tuple[Tensor, Tensor]:
        """Map rows (B, D) by each layer in turn; return the image and its log-determinant (B,)."""
        if not self.layers:
            return x, no_volume_change(x)
        # From one center to the next, so that a layer neither subtracts nor adds its own.
        steps = torch.cat((center[..., :-1, :] - center[..., 1:, :], center[..., -1:, :]), -2)
        offset = x - center[..., 0, :]
        radii = []
        for step, a_k, s_k in zip(steps.unbind(-2), a.unbind(-2), s.unbind(-2), strict=True):
            r = torch.linalg.vector_norm(offset, dim=-1, keepdim=True)  # (B, 1)
            r = radius_before(r, a_k, s_k) if backwards else r
            ratio = (a_k + r) / (s_k + r) if backwards else (s_k + r) / (a_k + r)
            offset = torch.addcmul(step, offset, ratio)
            radii.append(r)
        log_det = self.log_det(radii, a, s)
        return offset, -log_det if backwards else log_det

    def log_det(self, radii: Sequence[Tensor], a: Tensor, s: Tensor) -> Tensor:
        """log|det dz/dx| (B,) of all layers, from each one's radius (B, 1) on the data side."""
        r, a, s = torch.cat(list(radii), -1), a.squeeze(-1), s.squeeze(-1)  # (B, layers)
        outer, inner = s + r, a + r
        radial = (r + a / inner * outer) / inner
        return ((self.features - 1) * (outer / inner).log() + radial.log()).sum(-1)


def radius_before(rho: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """The r >= 0 with ``r (s + r) = rho (a + r)``, differentiable for s > 0, rho = 0 included."""
    half = (rho - s) / 2
    larger = half.abs() + torch.sqrt(half.square() + a * rho)  # of the two roots' sizes
    return torch.where(half < 0, a * rho / larger, larger)
