"""Dequantization with noise that is learned."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nfbench.nets.dequantizer import DequantizerNet

from .base import Compose, Transform
from .dequantize import cell, into_cell, log_volume
from .elementwise import Affine
from .masked import MaskedCoupling

# sigmoid(1.702 eps) is within 0.01 of the normal distribution function: the flow that is the
# identity makes noise that is nearly uniform.
SLOPE = 1.702


class VariationalDequantize(Transform):
    """``z = (x + u) / levels``, ``u = sigmoid(1.702 flow(eps; x))``, eps ~ N(0, I), x integers.

    log_det = -log q(u|x) - D log(levels) with the density q of u, which makes the log-likelihood a
    lower bound in expectation: log P(x) >= E_q[log p(x + u) - log q(u|x)] (Ho et al. 2019, section
    3.1). As tight as the flow allows: q is trained with the model. The inverse rounds down; its
    log-determinant is that of the scaling alone, as the noise is not asked for there.

    Args:
        levels: the integers are 0..levels-1.
        flow: of a standard normal eps (B, *event) to noise of that shape, with its
            log-determinant; the context is the image on [-1/2, 1/2], (B, *event).
    """

    likelihood = "lower bound"
    anchor: Tensor

    def __init__(self, levels: int, flow: Transform) -> None:
        super().__init__()
        self.levels, self.flow = levels, flow
        self.passes = flow.passes
        # Integers have no floating-point type: the result takes that of the module.
        self.register_buffer("anchor", torch.empty(0), persistent=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Add noise of q to integers (B, *event) and scale to [0, 1)."""
        x = x if x.is_floating_point() else x.to(self.anchor.dtype)
        u, log_q = self.noise(x)
        z = into_cell(x, u, self.levels)
        return z, -log_q - log_volume(z, self.levels)

    def noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Draw u (B, *event) for integers x; return it and log q(u|x) in nats, shape (B,)."""
        eps = torch.randn_like(x)
        h, log_det = self.flow(eps, x / (self.levels - 1) - 0.5)
        h = SLOPE * h
        log_normal = -0.5 * (eps.square() + math.log(2 * math.pi))
        log_slope = math.log(SLOPE) + F.logsigmoid(h) + F.logsigmoid(-h)  # of h to u
        return torch.sigmoid(h), (log_normal - log_slope).flatten(1).sum(1) - log_det

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the integers, as floating-point numbers."""
        return cell(z, self.levels), log_volume(z, self.levels)

    @torch.no_grad()
    def calibrate(
        self, x: Tensor, context: Tensor | None = None, batch_size: int = 65536
    ) -> Tensor:
        """Pass the training set (N, *event) on, in batches that a convolutional flow can take."""
        return super().calibrate(x, context, min(batch_size, 1024))


def noise_flow(event_shape: Sequence[int], *, layers: int, hidden: int) -> Compose:
    """Affine couplings on the colors of a checkerboard in turn, given the image; the identity
    at first. Vectors (D,) are boards of one row.

    Raises:
        ValueError: if events are neither vectors nor images.
    """
    rows, columns = (1, *event_shape)[-2:]
    return Compose(
        MaskedCoupling(
            DequantizerNet(event_shape, hidden=hidden),
            Affine(scale="tanh"),
            space=(rows, columns),
            swap=layer % 2 == 1,
        )
        for layer in range(layers)
    )
