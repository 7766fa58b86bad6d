"""Monotone rational-quadratic splines."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .elementwise import Elementwise, Parameters
from .tolerance import check_positive

# The smallest width and height of a bin, as fractions of the interval, and the smallest slope at a
# knot (authors' code of Durkan et al. 2019).
MIN_FRACTION = 1e-3
MIN_SLOPE = 1e-3
# MIN_SLOPE + softplus(u + SLOPE_SHIFT) = 1 at u = 0, so that a zero output means the identity.
SLOPE_SHIFT = math.log(math.expm1(1 - MIN_SLOPE))


class RationalQuadratic(Elementwise):
    """A monotone rational-quadratic spline of K bins on [-B, B], the identity outside.

    Durkan et al. 2019, equations 4-8. The 3K - 1 parameters are K widths and K heights, before a
    softmax, and the slopes at the K - 1 inner knots, before a softplus; the outer slopes are 1.

    Args:
        bins: K.
        tail_bound: B.
        temperature: divides widths and heights before the softmax.

    Raises:
        ValueError: if ``bins`` is not in 1..999, or a bound or temperature is not positive and
            finite.
    """

    signs: Tensor
    ones: Tensor

    def __init__(
        self, *, bins: int = 8, tail_bound: float = 3.0, temperature: float = 1.0
    ) -> None:
        super().__init__()
        if not 0 < bins * MIN_FRACTION < 1:
            raise ValueError(f"bins: expected a number in 1..999, got {bins}")
        check_positive(tail_bound=tail_bound, temperature=temperature)
        self.bins, self.tail_bound, self.temperature = bins, tail_bound, temperature
        self.n_parameters = 3 * bins - 1
        # Both outer knots are B signs + ones, in any precision: places on either side, and slopes.
        signs = torch.tensor([[-1.0, 1.0], [-1.0, 1.0], [0.0, 0.0]])
        self.register_buffer("signs", signs, persistent=False)
        self.register_buffer("ones", 1 - signs.abs(), persistent=False)

    def forward(self, x: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Return z and log dz/dx (equations 4-5)."""
        inside = x.clamp(-self.tail_bound, self.tail_bound)
        (x0, y0, d0), (x1, y1, d1) = self.bin(inside, parameters, side=0)
        width, height = x1 - x0, y1 - y0
        slope, t = height / width, (inside - x0) / width
        bend = d0 + d1 - 2 * slope
        z = y0 + height * t * (slope * t + d0 * (1 - t)) / (slope + bend * t * (1 - t))
        return self.with_tails(x, z, log_slope(t, slope, d0, d1))

    def inverse(self, z: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Return x and log dx/dz: the root in [0, 1] of a quadratic (equations 6-8)."""
        inside = z.clamp(-self.tail_bound, self.tail_bound)
        (x0, y0, d0), (x1, y1, d1) = self.bin(inside, parameters, side=1)
        width, height = x1 - x0, y1 - y0
        slope, rest = height / width, (inside - y0) / height
        bend = rest * (d0 + d1 - 2 * slope)
        a, b, c = slope - d0 + bend, d0 - bend, -slope * rest
        # Never exactly 0: there the gradient of the root would be infinite.
        discriminant = (b.square() - 4 * a * c).clamp(min=torch.finfo(z.dtype).tiny)
        # Of the two ways of writing the root, the one that adds numbers of the same sign.
        sum_of_both = b.abs() + discriminant.sqrt()
        t = torch.where(b >= 0, -2 * c, sum_of_both) / torch.where(b >= 0, sum_of_both, 2 * a)
        t = t.clamp(0, 1)  # rounding can carry it out, to where the slope may be negative
        return self.with_tails(z, x0 + width * t, -log_slope(t, slope, d0, d1))

    def bin(self, inside: Tensor, parameters: Parameters, *, side: int) -> tuple[Tensor, Tensor]:
        """The knots left and right of each point of the data side (0) or the noise side (1).

        Each knot is its place on either side and its slope, (3, *shape).
        """
        knots = self.knots(parameters).expand(-1, -1, *inside.shape)
        left = (inside >= knots[side, 1:-1]).sum(0)
        index = torch.stack([left, left + 1]).expand(3, 2, *left.shape)
        at_left, at_right = knots.gather(1, index).unbind(1)
        return at_left, at_right

    def knots(self, parameters: Parameters) -> Tensor:
        """Places on the data side, on the noise side, and slopes of all knots, (3, K + 1, *shape).

        The outermost knots lie at exactly -B and B, whatever the bins' widths add up to.
        """
        if not isinstance(parameters, Tensor):
            parameters = torch.stack(list(parameters))
        sizes, slopes = parameters.split([2 * self.bins, self.bins - 1])
        fractions = (sizes.unflatten(0, (2, self.bins)) / self.temperature).softmax(1)[:, :-1]
        sizes = MIN_FRACTION + (1 - MIN_FRACTION * self.bins) * fractions
        places = (2 * self.tail_bound) * sizes.cumsum(1) - self.tail_bound
        slopes = MIN_SLOPE + F.softplus(slopes + SLOPE_SHIFT)
        inner = torch.cat([places, slopes[None]])
        ends = torch.add(self.ones, self.signs, alpha=self.tail_bound)
        ends = ends.reshape(3, 2, *[1] * (inner.dim() - 2)).expand(3, 2, *inner.shape[2:])
        return torch.cat([ends[:, :1], inner, ends[:, 1:]], dim=1)

    def with_tails(self, x: Tensor, image: Tensor, log_det: Tensor) -> tuple[Tensor, Tensor]:
        """The identity in place of the spline outside [-B, B]."""
        inside = x.abs() <= self.tail_bound
        return torch.where(inside, image, x), torch.where(inside, log_det, 0.0)


def log_slope(t: Tensor, slope: Tensor, d0: Tensor, d1: Tensor) -> Tensor:
    """log dz/dx at the fraction t of a bin with mean slope ``slope`` and end slopes d0, d1."""
    u = 1 - t
    numerator = d1 * t.square() + 2 * slope * t * u + d0 * u.square()
    denominator = slope + (d0 + d1 - 2 * slope) * t * u
    return numerator.log() + 2 * (slope / denominator).log()
