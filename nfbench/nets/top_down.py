"""A block of the ResNet VAE: residual, up and down, with latents in its way down."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .conv_made import ConvMADE
from .normalized import NormalizedConv, NormalizedDeconv, halved

STD = 0.1  # of what a convolution makes of the first batch
RESIDUAL = 0.1  # what a block adds is multiplied by this, and what a step of the flow moves by


@dataclass(frozen=True)
class Evidence:
    """What the way up says of a block's latents: (B, Z, H, W) of a Gaussian, (B, C, H, W) for the
    flow.
    """

    mean: Tensor
    log_std: Tensor
    context: Tensor


@dataclass(frozen=True)
class Drawn:
    """Latents (B, Z, H, W), and the log-densities of each of them, of the same shape, in nats."""

    z: Tensor
    log_prior: Tensor
    log_posterior: Tensor


class IAFStep(nn.Module):
    """``z' = (z - 0.1 m) exp(-0.1 s)`` with (m, s) = ConvMADE(z, context).

    One step of an inverse autoregressive flow (Kingma et al. 2016, equation 10, scaled as in the
    authors' code); log|det dz'/dz| is the sum of -0.1 s.
    """

    def __init__(self, net: ConvMADE) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return z' and the logs of the diagonal of its Jacobian, both (B, Z, H, W)."""
        shift, log_scale = self.net(z, context)
        log_scale = RESIDUAL * log_scale
        return (z - RESIDUAL * shift) * torch.exp(-log_scale), -log_scale


class TopDownBlock(nn.Module):
    """A residual block of both ways, whose hidden layer downwards has latents z in it.

    Up it is ``h + 0.1 W_2 * elu(u)``, the rest of W_1 * elu(h) being the evidence; down
    ``h + 0.1 V_2 * elu([z, d])``, the rest of V_1 * elu(h) being the prior N(m_p, s_p^2) of z and
    what the posterior has from above. Its Gaussian has the mean m_q + m_r and the log-scale
    l_q + l_r, from below and from above, and IAF steps move its draw, the order of z reversed at
    each (Kingma et al. 2016, figures 3 and 6 and the authors' code). All convolutions are 3x3, of
    normalized weights.

    Args:
        width: channels of h. latent: Z. hidden: of the masked convolutions. steps: of the flow.
        size: height and width of what lies below; the block halves it on the way up if ``halve``.
        top: whether there is nothing above, so that the way up ends with the evidence.
    """

    def __init__(
        self,
        width: int,
        latent: int,
        *,
        steps: int,
        hidden: Sequence[int],
        activation: str,
        size: Sequence[int],
        halve: bool = False,
        top: bool = False,
    ) -> None:
        super().__init__()
        self.halve, self.size = halve, tuple(size)
        self.latent_shape = (latent, *(halved(size) if halve else size))
        nets = [
            ConvMADE(latent, hidden=hidden, activation=activation, reverse=step % 2 == 1)
            for step in range(steps)
        ]
        self.steps = nn.ModuleList(IAFStep(net) for net in nets)
        context = nets[0].context_channels if nets else 0
        self.up_parts = [latent, latent, context, 0 if top else width]
        self.down_parts = [latent] * 4 + [context, width]
        self.up_first = NormalizedConv(width, sum(self.up_parts), halve=halve, std=STD)
        self.up_second = None if top else NormalizedConv(width, width, std=STD)
        self.down_first = NormalizedConv(width, sum(self.down_parts), std=STD)
        self.down_second: nn.Module = (
            NormalizedDeconv(latent + width, width, size=size, std=STD)
            if halve
            else NormalizedConv(latent + width, width, std=STD)
        )

    def up(self, h: Tensor) -> tuple[Tensor, Evidence]:
        """From (B, width, *size) to what lies above, and what is seen of z on the way.

        At the top nothing lies above, and h is as it was.
        """
        *evidence, inner = self.up_first(F.elu(h)).split(self.up_parts, dim=1)
        if self.up_second is None:
            return h, Evidence(*evidence)
        if self.halve:
            h = h[:, :, ::2, ::2]
        return h + RESIDUAL * self.up_second(F.elu(inner)), Evidence(*evidence)

    def down(self, h: Tensor, evidence: Evidence) -> tuple[Tensor, Drawn]:
        """From what lies above to (B, width, *size), with z drawn from the posterior."""
        prior_mean, prior_log_std, mean, log_std, context, inner = self.look_down(h)
        z, log_posterior = self.draw(
            Evidence(evidence.mean + mean, evidence.log_std + log_std, evidence.context + context)
        )
        log_prior = log_normal((z - prior_mean) * torch.exp(-prior_log_std), prior_log_std)
        return self.go_on(h, z, inner), Drawn(z, log_prior, log_posterior)

    def generate(self, h: Tensor, noise: Tensor) -> Tensor:
        """From what lies above to (B, width, *size), with z of the prior made of noise
        (B, *latent_shape).
        """
        prior_mean, prior_log_std, *_, inner = self.look_down(h)
        return self.go_on(h, prior_mean + prior_log_std.exp() * noise, inner)

    def look_down(self, h: Tensor) -> tuple[Tensor, ...]:
        """All that h from above says: prior, posterior, context and deterministic features."""
        parts: tuple[Tensor, ...] = self.down_first(F.elu(h)).split(self.down_parts, dim=1)
        return parts

    def draw(self, code: Evidence) -> tuple[Tensor, Tensor]:
        """z of the posterior and the log-density of each of its dimensions, (B, Z, H, W)."""
        noise = torch.randn_like(code.mean)
        z = code.mean + code.log_std.exp() * noise
        log_density = log_normal(noise, code.log_std)
        context = code.context if code.context.shape[1] else None
        for step in self.steps:
            z, log_scale = step(z, context)
            log_density = log_density - log_scale
        return z, log_density

    def go_on(self, h: Tensor, z: Tensor, inner: Tensor) -> Tensor:
        """The residual connection downwards."""
        added: Tensor = self.down_second(F.elu(torch.cat([z, inner], dim=1)))
        if self.halve:
            h = F.interpolate(h, self.size)  # the nearest pixel
        return h + RESIDUAL * added


def log_normal(noise: Tensor, log_std: Tensor) -> Tensor:
    """``log N(m + e^l e; m, e^2l) = -(e^2 + log 2 pi) / 2 - l`` of each dimension, in nats."""
    return -0.5 * (noise.square() + math.log(2 * math.pi)) - log_std
