"""Sylvester maps: planar maps with several directions at once."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nfbench.nets.amortized import Amortized

from .base import Transform, no_volume_change
from .rootfind import solve_tanh, tanh_slope

KINDS = ("orthogonal", "householder", "triangular")
SPREAD = 0.1  # of the first R: close to the identity, every layer its own


class Sylvester(Transform):
    """``f(x) = x + Q R tanh(R~ Q^T x + b)``, ``layers`` times (van den Berg et al. 2018).

    Q (D, M) has orthonormal columns, R and R~ (M, M) are upper triangular with diagonals bounded
    by tanh, so that 1 + r_ii r~_ii (1 - tanh^2) > 0: these factors' product is the Jacobian
    determinant, by Sylvester's identity. The inverse solves a triangular system for Q^T x, from
    its last coordinate to its first, each the root of a scalar equation, to rounding; its
    gradient is that of the implicit function theorem, up to second derivatives.

    ``kind`` says what Q is: ``orthogonal``, M = ``columns`` free columns made orthonormal by QR
    (in the paper, by an iteration); ``householder``, M = D and a product of ``reflections``;
    ``triangular``, M = D and the identity, with the dimensions turned round in every other
    layer. One dimension cannot be rotated: all kinds are triangular there.

    With ``context_features`` everything but the permutation is linear in the context.

    Raises:
        ValueError: if ``kind`` is none of these, or ``columns`` is not between 1 and D, or not
            null for a kind that has no choice, or ``reflections`` is not positive.
    """

    multiplies = True

    def __init__(
        self,
        features: int,
        *,
        layers: int,
        kind: str = "orthogonal",
        columns: int | None = None,
        reflections: int = 8,
        context_features: int = 0,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}; got {kind!r}")
        if columns is not None and not 1 <= columns <= features:
            raise ValueError(f"columns: expected 1 to {features} (dimensions), got {columns}")
        if columns is not None and kind != "orthogonal":
            raise ValueError(f"columns: expected null for kind {kind!r}, which has {features}")
        if kind == "householder" and reflections < 1:
            raise ValueError(f"reflections: expected at least 1, got {reflections}")
        self.features, self.layers = features, layers
        self.kind = kind if features > 1 else "triangular"
        m = columns or features
        n_vectors = {"orthogonal": m, "householder": reflections, "triangular": 0}[self.kind]
        # R is above and on the diagonal, R~ without its diagonal below, transposed.
        both = torch.randn(layers, m, m) / m**0.5
        both = both.tril(-1) + SPREAD * both.triu()
        self.both = Amortized(both, context_features=context_features)
        self.diagonal = Amortized(torch.randn(layers, m), context_features=context_features)
        self.b = Amortized(torch.randn(layers, m), context_features=context_features)
        vectors = torch.randn(layers, n_vectors, features)
        self.vectors = Amortized(vectors, context_features=context_features) if n_vectors else None

    def basis(self, context: Tensor | None) -> Tensor:
        """Q (layers, D, M), one for every row if amortized."""
        like = self.b.value
        eye = torch.eye(self.features, dtype=like.dtype, device=like.device)
        if self.vectors is None:
            return torch.stack((eye, eye.flip(0)))[torch.arange(self.layers) % 2]
        vectors = self.vectors(context)
        if self.kind == "orthogonal":
            q, r = torch.linalg.qr(vectors.mT)
            # A positive diagonal makes Q unique, and continuous in the vectors.
            return q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
        q = eye
        for v in F.normalize(vectors, dim=-1).unbind(-2):
            q = q - 2 * (q @ v.unsqueeze(-1)) * v.unsqueeze(-2)
        return q

    def maps(self, context: Tensor | None) -> list[tuple[Tensor, ...]]:
        """Q, R, R~, b and slack = 1 + r r~ (M,) of each layer, or one for every row."""
        both, b = self.both(context), self.b(context)
        r_diagonal = both.diagonal(dim1=-2, dim2=-1).tanh()
        diagonal = self.diagonal(context).tanh()
        slack = (1 + r_diagonal * diagonal).clamp_min(torch.finfo(both.dtype).eps)
        r = both.triu(1) + r_diagonal.diag_embed()
        r_tilde = both.mT.triu(1) + diagonal.diag_embed()
        matrices = [each.unbind(-3) for each in (self.basis(context), r, r_tilde)]
        return list(zip(*matrices, b.unbind(-2), slack.unbind(-2), strict=True))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data (B, D) to noise in closed form."""
        slopes = []
        for layer in self.maps(context):
            x, slope = push(x, *layer)
            slopes.append(slope)
        return x, log_product(x, slopes)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map noise (B, D) to data, the last layer first."""
        slopes = []
        for layer in reversed(self.maps(context)):
            z, slope = pull(z, *layer)
            slopes.append(slope)
        return z, -log_product(z, slopes)

    def steps(
        self, points: Tensor, context: Tensor | None = None, *, backwards: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """The points after each layer."""
        layers = self.maps(context)
        for layer in reversed(layers) if backwards else layers:
            points, _ = (pull if backwards else push)(points, *layer)
            yield type(self).__name__, points


def push(
    x: Tensor, q: Tensor, r: Tensor, r_tilde: Tensor, b: Tensor, slack: Tensor
) -> tuple[Tensor, Tensor]:
    """One layer's image of rows x (B, D), and its Jacobian's factors (B, M)."""
    h = torch.tanh(times(r_tilde, times(q.mT, x)) + b)  # (B, M)
    return x + times(q, times(r, h)), tanh_slope(h, slack)


def pull(
    z: Tensor, q: Tensor, r: Tensor, r_tilde: Tensor, b: Tensor, slack: Tensor
) -> tuple[Tensor, Tensor]:
    """The rows (B, D) whose image under one layer is z, and its Jacobian's factors (B, M)."""
    h = solve_triangular(times(q.mT, z), r, r_tilde, b, slack)  # (B, M)
    return z - times(q, times(r, h)), tanh_slope(h, slack)


def solve_triangular(y: Tensor, r: Tensor, r_tilde: Tensor, b: Tensor, slack: Tensor) -> Tensor:
    """The h (B, M) with ``h = tanh(R~ a + b)`` and ``a + R h = y``, its last coordinate first."""
    hs = []
    b = b.expand_as(y)
    for i in reversed(range(y.shape[-1])):
        # Times r~_ii, with t = r~_ii a_i + b_i: t + r_ii r~_ii tanh t = r~_ii y_i + b_i.
        t = solve_tanh(r_tilde[..., i, i] * y[:, i] + b[:, i], slack[..., i])
        h = torch.tanh(t)
        a = y[:, i] - r[..., i, i] * h
        y = y - r[..., :, i] * h.unsqueeze(-1)
        b = b + r_tilde[..., :, i] * a.unsqueeze(-1)
        hs.append(h)
    return torch.stack(hs[::-1], -1)


def times(matrix: Tensor, rows: Tensor) -> Tensor:
    """The matrix (N, M), or one for each row, times the rows (B, M)."""
    if matrix.dim() == 2:
        return rows @ matrix.mT
    return (matrix @ rows.unsqueeze(-1)).squeeze(-1)


def log_product(x: Tensor, slopes: Sequence[Tensor]) -> Tensor:
    """The sum over all slopes' logarithms for every row (B,)."""
    return torch.cat(list(slopes), -1).log().sum(-1) if slopes else no_volume_change(x)
