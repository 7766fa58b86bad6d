"""Roots of increasing scalar functions, whole batches at once, and their gradients."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

# From points to the function's values and slopes there, all of one shape.
Function = Callable[[Tensor], tuple[Tensor, Tensor]]


@torch.no_grad()
def find_root(
    function: Function,
    low: Tensor,
    high: Tensor,
    *,
    start: Tensor | None = None,
    noise: Tensor | float = 0.0,
) -> Tensor:
    """The root of an increasing function in a bracket, by safeguarded Newton steps.

    A Newton step that leaves the bracket, or is not half the step before last, gives way to a
    bisection (Press et al. 2007, section 9.4). After as many steps as the dtype has binary digits
    only bisections follow, as many again: whatever the function, the error is then at most
    eps (high - low). It stops when every |value| is at most ``noise``, what rounding may make of
    zero, or every Newton step is at most eps |x|; where the function is NaN, so is the root or
    any point of the bracket.

    Args:
        function: value and slope, each (B,), at points (B,).
        low: below the root, (B,).
        high: above the root, (B,).
        start: where to begin, (B,); the middle unless given.
        noise: rounding error of the value, (B,) or a number.
    """
    eps = torch.finfo(low.dtype).eps
    digits = 1 - round(math.log2(eps))
    x = low + (high - low) / 2 if start is None else start
    before_last = last = high - low
    found = torch.zeros_like(low, dtype=torch.bool)
    for step in range(2 * digits):
        value, slope = function(x)
        low, high = torch.where(value < 0, x, low), torch.where(value > 0, x, high)
        newton = x - value / slope
        # Written so that NaN counts as found.
        found |= ~((value.abs() > noise) & ((newton - x).abs() > eps * x.abs()))
        if found.is_meta or found.all():
            break
        safe = (newton >= low) & (newton <= high) & (2 * (newton - x).abs() <= before_last)
        proposed = torch.where(safe & (step < digits), newton, low + (high - low) / 2)
        before_last, last = last, (proposed - x).abs()
        x = torch.where(found, x, proposed)
    return x


def implicit(function: Function, root: Tensor) -> Tensor:
    """The same root, with the gradient that the implicit function theorem gives it.

    If f(x; p) = 0 then dx/dp = -(df/dp) / (df/dx): the gradient of one Newton step from the root
    whose slope is held fixed. A second step of the same slope gives the second derivatives; higher
    ones are not those of the root. What ``function`` depends on receives them.
    """
    if not torch.is_grad_enabled():
        return root
    root = root.detach()
    value, slope = function(root)
    slope = slope.detach()
    # The value itself is rounding: over a small slope it could move the root.
    step = root - (value - value.detach()) / slope
    value, _ = function(step)
    return step - (value - value.detach()) / slope


def tanh_slope(h: Tensor, slack: Tensor) -> Tensor:
    """The derivative of ``t + (slack - 1) tanh t`` where ``tanh t = h``; positive if slack is."""
    square = h.square()
    return torch.addcmul(square, 1 - square, slack)


def solve_tanh(q: Tensor, slack: Tensor) -> Tensor:
    """The t with ``t + (slack - 1) tanh t = q``, differentiable in q and slack.

    The left-hand side is odd, and increasing as slack > 0; so t lies between q and q minus or
    plus (slack - 1), on q's side of zero. There it is convex or concave, and Newton's method
    from the end away from q approaches the root from one side.

    Args:
        q: (B,).
        slack: the slope at zero, positive, (B,) or a scalar.
    """

    def equation(t: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(t)
        return torch.addcmul(t - q, slack - 1, h), tanh_slope(h, slack)

    with torch.no_grad():
        end = q - (slack - 1) * q.sign()
        end = torch.where(end * q.sign() < 0, 0.0, end)
        reach = (q.abs() / slack.clamp(max=1)).clamp(max=1)  # what |tanh t| is at most
        noise = torch.finfo(q.dtype).eps * (q.abs() + (slack - 1).abs() * reach)
        root = find_root(
            equation, torch.minimum(q, end), torch.maximum(q, end), start=end, noise=noise
        )
    return implicit(equation, root)
