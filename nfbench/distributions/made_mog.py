"""An autoregressive mixture of Gaussians: MADE whose outputs are the mixtures' parameters."""

import math

import torch
from torch import Tensor, nn

from nfbench.nets.autoregress import autoregress
from nfbench.nets.made import MADE

from .base import Distribution, refuse_temperature

# A component this narrow (1e-13) is a point to float32; a larger precision would overflow, and the
# gradient of one far point be NaN.
MAX_LOG_PRECISION = 60.0
SCALES = {"log_precision": 1.0, "exp": 2.0}  # p for an output of 1


class AutoregressiveMixture(Distribution):
    """``p(z) = prod_d sum_k pi_dk N(z_d; m_dk, exp(-p_dk))`` with (logit pi, m, a)_d = MADE(z_<d).

    K ``components`` each; p is a log-precision, cut at 60: p = a, or p = 2 a where ``scale`` is
    ``exp`` and a the log of the inverse standard deviation. MADE MoG of Papamakarios et al. 2017
    (section 4.1); its output biases start as N(0, 1) as in the authors' code, so that the
    components differ.

    Raises:
        ValueError: if ``made`` has not 3 K outputs for each dimension, or ``scale`` is neither
            ``log_precision`` nor ``exp``.
    """

    def __init__(self, made: MADE, components: int, *, scale: str = "log_precision") -> None:
        super().__init__()
        if scale not in SCALES:
            raise ValueError(f"scale: expected one of {', '.join(SCALES)}; got {scale!r}")
        if made.n_parameters != 3 * components:
            raise ValueError(
                f"made: expected {3 * components} parameters per dimension, "
                f"got {made.n_parameters}"
            )
        self.made, self.components, self.scale = made, components, scale
        self.passes, self.sample_passes = 1, made.features
        nn.init.normal_(made.biases[-1])

    def split(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, means and log-precisions (K, *shape) of parameters (3K, *shape)."""
        logits, means, a = parameters.unflatten(0, (3, self.components)).unbind(0)
        return logits, means, (SCALES[self.scale] * a).clamp(max=MAX_LOG_PRECISION)

    def log_terms(self, z: Tensor, parameters: Tensor) -> Tensor:
        """Log-density of each scalar of ``z`` given parameters (3K, *z.shape)."""
        logits, means, log_precisions = self.split(parameters)
        weighted = logits.log_softmax(0) + 0.5 * log_precisions
        energies = 0.5 * (z - means).square() * log_precisions.exp()
        return torch.logsumexp(weighted - energies, 0) - 0.5 * math.log(2 * math.pi)

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density of each row in nats, shape (B,), in one pass."""
        return self.log_terms(z, self.made(z, context)).sum(1)

    def cdf(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """``sum_k pi_dk Phi((z_d - m_dk) exp(p_dk / 2))`` of each dimension, (B, D)."""
        logits, means, log_precisions = self.split(self.made(z, context))
        below = torch.special.ndtr((z - means) * torch.exp(0.5 * log_precisions))
        return (logits.softmax(0) * below).sum(0)

    def draw(self, parameters: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Pick a component per scalar and color its noise; return the value and log-density."""
        logits, means, log_precisions = self.split(parameters)
        gumbel = -torch.empty_like(logits).exponential_().log()
        chosen = (logits + gumbel).argmax(0, keepdim=True)  # (1, B)
        mean, log_precision = means.gather(0, chosen)[0], log_precisions.gather(0, chosen)[0]
        value = mean + noise * torch.exp(-0.5 * log_precision)
        return value, self.log_terms(value, parameters)

    @torch.no_grad()
    def sample(self, n: int, context: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
        """Draw n rows (n, D), one dimension after another; without gradient, as components are.

        Raises:
            ValueError: if the temperature is not 1: each component has a center of its own.
        """
        refuse_temperature(self, temperature)
        like = self.made.biases[-1]
        noise = torch.randn(n, self.made.features, dtype=like.dtype, device=like.device)
        return autoregress(self.made, self.draw, noise, context)[0]
