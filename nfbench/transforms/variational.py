"""Dequantization with noise that is learned."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nfbench.nets.dequantizer import DequantizerNet
from nfbench.nets.gated import GatedDequantizerNet

from .base import CALIBRATED, Compose, Transform
from .dequantize import cell, into_cell, log_volume
from .elementwise import Affine
from .masked import MaskedCoupling, checkerboard

EDGE = 0.5e-5  # how far from 0 and 1 a uniform variable stays before its logit


def normal(x: Tensor) -> tuple[Tensor, Tensor]:
    """Standard normal noise, shaped as x, and its log-density."""
    eps = torch.randn_like(x)
    return eps, -0.5 * (eps.square() + math.log(2 * math.pi))


def logistic(x: Tensor) -> tuple[Tensor, Tensor]:
    """The logit of uniform noise on [5e-6, 1 - 5e-6], shaped as x, and its log-density."""
    scale = 1 - 2 * EDGE
    eps = torch.logit(EDGE + scale * torch.rand_like(x))
    return eps, F.logsigmoid(eps) + F.logsigmoid(-eps) - math.log(scale)


# The noise of each name, and what it is multiplied by before the sigmoid: sigmoid(1.702 eps) is
# within 0.01 of the normal distribution function, so that the flow that is the identity makes
# noise that is uniform or nearly so.
NOISES = {"normal": (normal, 1.702), "logistic": (logistic, 1.0)}


class VariationalDequantize(Transform):
    """``z = (x + u) / levels``, ``u = sigmoid(c flow(eps; x))``, integers x, eps ~ N(0, I).

    With ``noise="logistic"`` eps is the logit of uniform noise instead (Lippe 2021); c is 1.702 or
    1. log_det = -log q(u|x) - D log(levels) with the density q of u, which makes the
    log-likelihood a lower bound in expectation: log P(x) >= E_q[log p(x + u) - log q(u|x)] (Ho et
    al. 2019, section 3.1). As tight as the flow allows: q is trained with the model. The inverse
    rounds down; its log-determinant is that of the scaling alone, as the noise is not asked for
    there.

    Args:
        levels: the integers are 0..levels-1.
        flow: of eps (B, *event) to noise of that shape, with its log-determinant; the context is
            the image on [-1/2, 1/2], (B, *event).
        noise: what eps is.
    """

    likelihood = "lower bound"
    anchor: Tensor

    def __init__(
        self, levels: int, flow: Transform, *, noise: Literal["normal", "logistic"] = "normal"
    ) -> None:
        super().__init__()
        self.levels, self.flow = levels, flow
        self.draw, self.slope = NOISES[noise]
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
        eps, log_p = self.draw(x)
        h, log_det = self.flow(eps, x / (self.levels - 1) - 0.5)
        h = self.slope * h
        log_slope = math.log(self.slope) + F.logsigmoid(h) + F.logsigmoid(-h)  # of h to u
        return torch.sigmoid(h), (log_p - log_slope).flatten(1).sum(1) - log_det

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the integers, as floating-point numbers."""
        return cell(z, self.levels), log_volume(z, self.levels)

    @torch.no_grad()
    def calibrate(
        self, x: Tensor, context: Tensor | None = None, batch_size: int = CALIBRATED
    ) -> Tensor:
        """Pass the training set (N, *event) on, in batches that a convolutional flow can take."""
        return super().calibrate(x, context, min(batch_size, 1024))


def noise_flow(
    event_shape: Sequence[int],
    *,
    layers: int,
    hidden: int,
    net: Literal["conv", "gated"] = "conv",
) -> Compose:
    """Affine couplings on the colors of a checkerboard in turn, given the image; the identity
    at first. Vectors (D,) are boards of one row.

    Raises:
        ValueError: if events are neither vectors nor images, or vectors for the gated net.
    """
    if net == "gated" and len(event_shape) != 3:
        raise ValueError(
            "preprocess.dequantizer: expected images (C, H, W) for 'gated', got "
            f"{tuple(event_shape)}; 'conv' takes vectors too"
        )
    rows, columns = (1, *event_shape)[-2:]

    def coupling(layer: int) -> MaskedCoupling:
        fixed = checkerboard((rows, columns), swap=layer % 2 == 1)
        if net == "gated":
            return MaskedCoupling(
                GatedDequantizerNet(event_shape[0], hidden=hidden), Affine(), fixed
            )
        return MaskedCoupling(
            DequantizerNet(event_shape, hidden=hidden), Affine(scale="tanh"), fixed
        )

    return Compose(coupling(layer) for layer in range(layers))
