"""Radial maps: contractions and expansions around points."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nfbench.nets.amortized import Amortized

from .base import Transform, check_width, no_volume_change
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

    def maps(self, n: int, context: Tensor | None, *, backwards: bool) -> tuple[Tensor, ...]:
        """x0 (layers, 1, D), a and s (layers, n, 1) in the order of use; x0 is (layers, n, D) if
        amortized.
        """
        eps = torch.finfo(self.alpha.value.dtype).eps
        a = F.softplus(self.alpha(context)).clamp_min(eps)
        s = F.softplus(self.beta(context)).clamp_min(eps)
        center, a, s = (
            each.movedim(1, 0) if each.dim() == 3 else each.unsqueeze(1)
            for each in (self.center(context), a, s)
        )
        if backwards:
            center, a, s = center.flip(0), a.flip(0), s.flip(0)
        # Autograd then sums over the rows for all layers at once.
        return center, a.expand(-1, n, -1), s.expand(-1, n, -1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data (B, D) to noise in closed form."""
        return self.through(x, context, backwards=False)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map noise (B, D) to data in closed form, the last layer first."""
        x, log_det = self.through(z, context, backwards=True)
        return x, -log_det

    def through(
        self, x: Tensor, context: Tensor | None, *, backwards: bool
    ) -> tuple[Tensor, Tensor]:
        """Map rows (B, D) by each layer in turn; return the image and log|det dz/dx| (B,)."""
        check_width(x, self.features)
        if not self.layers:
            return x, no_volume_change(x)
        center, a, s = self.maps(len(x), context, backwards=backwards)
        image, radii, _ = chain(x, center, a, s, backwards=backwards)
        return image, self.log_det(radii, a, s)

    def steps(
        self, points: Tensor, context: Tensor | None = None, *, backwards: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """The points after each layer."""
        if not self.layers:
            return
        center, a, s = self.maps(len(points), context, backwards=backwards)
        image, _, offsets = chain(points, center, a, s, backwards=backwards)
        for moved in (*(center[1:] + offsets[1:]), image):
            yield type(self).__name__, moved

    def log_det(self, r: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """log|det dz/dx| (B,) of all layers, from each one's radius (layers, B, 1) in the data."""
        ratio = (s + r) / (a + r)
        radial = growth(r, a, ratio).log()
        return torch.add(radial, ratio.log(), alpha=self.features - 1).sum((0, -1))


def chain(
    x: Tensor, center: Tensor, a: Tensor, s: Tensor, *, backwards: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (B, D) after all layers, and each layer's radii on the data side and offsets before."""
    # From one center to the next, so that a layer neither subtracts nor adds its own.
    jumps = torch.cat((center[:-1] - center[1:], center[-1:])).expand(-1, len(x), -1)
    run = Chain.apply if torch.is_grad_enabled() else Chain.forward
    return run(x - center[0], jumps, a, s, backwards)


class Chain(torch.autograd.Function):
    """All layers in turn, ``offset_k+1 = jump_k + q_k offset_k``, with a gradient by hand.

    q = (s + r) / (a + r) with r = |offset|; backwards q = (a + r) / (s + r), where r is what a
    layer maps to the radius |offset|. Takes the first offset (B, D), jumps (layers, B, D), a and
    s (layers, B, 1); returns the last offset, r (layers, B, 1) and the other offsets
    (layers, B, D). Its gradient is made of differentiable operations, so it has one too.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        offset: Tensor, jumps: Tensor, a: Tensor, s: Tensor, backwards: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Layer by layer."""
        offsets, radii = [], []
        for jump, a_k, s_k in zip(jumps.unbind(), a.unbind(), s.unbind(), strict=True):
            r = torch.linalg.vector_norm(offset, dim=-1, keepdim=True)  # (B, 1)
            r = radius_before(r, a_k, s_k) if backwards else r
            ratio = (a_k + r) / (s_k + r) if backwards else (s_k + r) / (a_k + r)
            offsets.append(offset)
            radii.append(r)
            offset = torch.addcmul(jump, offset, ratio)
        return offset, torch.stack(radii), torch.stack(offsets)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what the gradient is made of."""
        _, _, a, s, ctx.backwards = inputs
        ctx.save_for_backward(a, s, *output[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """From the last layer to the first; what is not a recurrence, for all layers at once."""
        a, s, r, offsets = ctx.saved_tensors
        last, to_radii, to_offsets = gradients
        top, bottom = (a, s) if ctx.backwards else (s, a)
        by_top = 1 / (bottom + r)
        ratio = (top + r) * by_top
        by_r = (bottom - top) * by_top.square()
        length, slope = (r / ratio, 1 / growth(r, a, 1 / ratio)) if ctx.backwards else (r, 1.0)
        # d length = offset . d offset / length; the square of a shorter offset underflows.
        nowhere = length < torch.finfo(r.dtype).tiny ** 0.5
        push = torch.where(nowhere, 0.0, slope / torch.where(nowhere, 1.0, length))
        pulls, to_jumps = [], []
        layers = (offsets, ratio, push * by_r, push * to_radii, to_offsets)
        for offset, q, push_q, push_r, to_offset in zip(
            *(each.unbind()[::-1] for each in layers), strict=True
        ):
            to_jumps.append(last)
            pulls.append((last * offset).sum(-1, keepdim=True))  # the gradient of q
            along = torch.addcmul(push_r, pulls[-1], push_q)
            last = torch.addcmul(torch.addcmul(to_offset, q, last), along, offset)
        pull = torch.stack(pulls[::-1])
        to_top, to_bottom = pull * by_top, -pull * ratio * by_top
        if not ctx.backwards:
            return last, torch.stack(to_jumps[::-1]), to_bottom, to_top, None
        of_root = torch.addcmul(to_radii, pull, by_r) * slope / (a + r)
        to_a, to_s = to_top + of_root * length, to_bottom - of_root * r
        return last, torch.stack(to_jumps[::-1]), to_a, to_s, None


def growth(r: Tensor, a: Tensor, ratio: Tensor) -> Tensor:
    """The derivative of ``r (s + r) / (a + r)``, positive; ``ratio`` is (s + r) / (a + r)."""
    return torch.addcmul(r, a, ratio) / (a + r)


def radius_before(rho: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """The r >= 0 with ``r (s + r) = rho (a + r)``, differentiable for s > 0, rho = 0 included."""
    half = (rho - s) / 2
    larger = half.abs() + torch.sqrt(half.square() + a * rho)  # of the two roots' sizes
    return torch.where(half < 0, a * rho / larger, larger)
