"""Planar maps: contractions and expansions perpendicular to planes."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nfbench.nets.amortized import Amortized

from .base import Transform, no_volume_change
from .elementwise import SOFTPLUS_SHIFT
from .rootfind import solve_tanh, tanh_slope

SPREAD = 0.1  # of the first displacements: close to the identity, every layer its own


class Planar(Transform):
    """``f(x) = x + u_hat tanh(w.x + b)``, ``layers`` times (Rezende & Mohamed 2015, eq. 10-12).

    ``u_hat = u + (m(w.u) - w.u) w / |w|^2`` with ``m(a) = softplus(a) - 1`` makes it invertible:
    w.u_hat > -1 (appendix A.1); u_hat = u where w = 0.
    log_det = log(1 + w.u_hat (1 - tanh^2)), summed over the layers. The inverse finds each
    layer's w.x + b as the root of a scalar equation, to rounding, in O(D); its gradient is that
    of the implicit function theorem, up to second derivatives.

    With ``context_features`` w, u (B, layers, D) and b (B, layers) are linear in the context.
    """

    def __init__(self, features: int, *, layers: int, context_features: int = 0) -> None:
        super().__init__()
        self.features, self.layers = features, layers
        w = torch.randn(layers, features) / features**0.5
        # Here softplus(w.u) = 1, which makes u_hat = 0; what is added is nearly all of it.
        u = SOFTPLUS_SHIFT * w / w.square().sum(-1, keepdim=True)
        u = u + SPREAD * torch.randn(layers, features) / features**0.5
        self.w = Amortized(w, context_features=context_features)
        self.u = Amortized(u, context_features=context_features)
        self.b = Amortized(torch.randn(layers), context_features=context_features)

    def maps(self, context: Tensor | None) -> tuple[Sequence[Tensor], ...]:
        """w, u_hat (D,), b and slack = 1 + w.u_hat of each layer, or one for every row."""
        w, u, b = self.w(context), self.u(context), self.b(context)
        square, dot = w.square().sum(-1), (w * u).sum(-1)
        # What is smaller has lost its digits, or has a gradient of 1 / |w|^4 that overflows.
        nowhere = square < torch.finfo(w.dtype).tiny ** 0.5
        slack = torch.where(nowhere, 1.0, F.softplus(dot)).clamp_min(torch.finfo(w.dtype).eps)
        along = (slack - 1 - dot) / torch.where(nowhere, 1.0, square)
        u_hat = torch.addcmul(u, along.unsqueeze(-1), w)
        return w.unbind(-2), u_hat.unbind(-2), b.unbind(-1), slack.unbind(-1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data (B, D) to noise in closed form."""
        maps = self.maps(context)
        hs = []
        for layer in zip(*maps, strict=True):
            x, h = push(x, *layer)
            hs.append(h)
        return x, self.log_det(x, hs, maps[-1])

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map noise (B, D) to data, the last layer first."""
        maps = [each[::-1] for each in self.maps(context)]
        hs = []
        for layer in zip(*maps, strict=True):
            z, h = pull(z, *layer)
            hs.append(h)
        return z, -self.log_det(z, hs, maps[-1])

    def steps(
        self, points: Tensor, context: Tensor | None = None, *, backwards: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """The points after each layer."""
        layers = list(zip(*self.maps(context), strict=True))
        for layer in reversed(layers) if backwards else layers:
            points, _ = (pull if backwards else push)(points, *layer)
            yield type(self).__name__, points

    def log_det(self, x: Tensor, hs: Sequence[Tensor], slacks: Sequence[Tensor]) -> Tensor:
        """log|det dz/dx| (B,) of all layers, from each one's tanh (B,) and slack."""
        if not hs:
            return no_volume_change(x)
        return tanh_slope(torch.stack(list(hs), -1), torch.stack(list(slacks), -1)).log().sum(-1)


def push(x: Tensor, w: Tensor, u_hat: Tensor, b: Tensor, slack: Tensor) -> tuple[Tensor, Tensor]:
    """One layer's image of rows x (B, D), and its tanh (B,)."""
    h = torch.tanh(project(x, w, b))
    return displace(x, h, u_hat), h


def pull(z: Tensor, w: Tensor, u_hat: Tensor, b: Tensor, slack: Tensor) -> tuple[Tensor, Tensor]:
    """The rows (B, D) whose image under one layer is z, and its tanh (B,)."""
    h = torch.tanh(solve_tanh(project(z, w, b), slack))
    return displace(z, -h, u_hat), h


def project(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """w.x + b for rows x (B, D), w (D,) or one for each row."""
    if w.dim() == 2:
        return torch.linalg.vecdot(x, w) + b
    # Not left to broadcasting, which drops the dimension of an empty batch.
    return torch.addmv(b.expand(len(x)), x, w)


def displace(x: Tensor, h: Tensor, u: Tensor) -> Tensor:
    """x + h u for rows x (B, D), h (B,), u (D,) or one for each row."""
    return torch.addr(x, h, u) if u.dim() == 1 else torch.addcmul(x, h.unsqueeze(-1), u)
