"""The ResNet VAE: many layers of latents, inferred from above and below (Kingma et al. 2016)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nfbench.distributions.base import scaled
from nfbench.distributions.observation import Observation
from nfbench.metrics import log_mean_exp
from nfbench.nets.normalized import NormalizedConv, NormalizedDeconv, halved
from nfbench.nets.top_down import STD, Drawn, Evidence, TopDownBlock
from nfbench.vae import LatentVariableModel, Terms

KERNEL = 5  # of the first and the last convolution, which halve and double the sides


class ResNetVAE(LatentVariableModel):
    """``log p(x) >= E_q[log p(x | z_1..L) + sum_l log p(z_l | z_>l) - log q(z_l | z_>l, x)]``.

    Images pass up through L residual blocks, without noise; then the latents of each block are
    drawn on the way down, given both ways (``TopDownBlock``), the topmost h being trained numbers,
    the same at each pixel. The model of the authors' TensorFlow code, and with one or no hidden
    layer, more steps or none, those of their table 4 (Kingma et al. 2016, appendix C) with
    bidirectional inference. Groups of latents are the feature maps of all blocks, the topmost
    block first: their log-densities are sums over space.

    Args:
        event_shape: (C, H, W). observation: p(x | z), given what the decoder says.
        blocks: of each level; every level but the first halves the sides.
        width: channels of the blocks. latent: feature maps of z of each block.
        layers: IAF steps of each posterior; with 0 it is a diagonal Gaussian.
        hidden: channels of the masked convolutions of a step; none for a linear step.
        importance_draws: how many z the test's importance-weighted bound takes.

    Raises:
        ValueError: if events are no images, or if there are no blocks.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        observation: Observation,
        *,
        blocks: Sequence[int] = (20,),
        width: int = 160,
        latent: int = 32,
        layers: int = 1,
        hidden: Sequence[int] = (160, 160),
        activation: str = "elu",
        importance_draws: int = 1,
    ) -> None:
        super().__init__()
        if len(event_shape) != 3:
            raise ValueError(f"event_shape: expected images (C, H, W), got {tuple(event_shape)}")
        if not blocks or min(blocks) < 1:
            raise ValueError(
                f"blocks: expected the numbers of blocks of one or more levels, got {list(blocks)}"
            )
        self.observation, self.importance_draws = observation, importance_draws
        channels, *whole = event_shape
        self.parameters_shape = (observation.n_parameters, channels)
        self.first = NormalizedConv(channels, width, KERNEL, halve=True, std=STD)
        size = halved(whole)
        built: list[TopDownBlock] = []
        for level, count in enumerate(blocks):
            for block in range(count):
                halve = level > 0 and block == 0
                made = TopDownBlock(
                    width,
                    latent,
                    steps=layers,
                    hidden=hidden,
                    activation=activation,
                    size=size,
                    halve=halve,
                    top=len(built) == sum(blocks) - 1,
                )
                built.append(made)
                size = made.latent_shape[1:]
        self.blocks = nn.ModuleList(built)
        self.top, self.top_size = nn.Parameter(torch.zeros(width, 1, 1)), size
        n_out = observation.n_parameters * channels
        self.last = NormalizedDeconv(width, n_out, KERNEL, size=whole, std=STD)

    @property
    def upwards(self) -> list[TopDownBlock]:
        """The blocks, the one next to the data first."""
        return [block for block in self.blocks if isinstance(block, TopDownBlock)]

    def encode(self, x: Tensor) -> list[Evidence]:
        """What the way up from data (B, C, H, W) says of the latents of each block.

        The blocks' latents are in groups by feature maps.
        """
        h = self.first((x.to(self.top.dtype) + 0.5) / self.observation.levels - 0.5)
        found = []
        for block in self.upwards:
            h, evidence = block.up(h)
            found.append(evidence)
        return found

    def look_down(self, found: Sequence[Evidence]) -> tuple[Tensor, list[Drawn]]:
        """What the decoder says of each dimension, and the latents it was told, the top first."""
        h, drawn = self.summit(len(found[0].mean)), []
        for block, evidence in zip(self.upwards[::-1], found[::-1], strict=True):
            h, latents = block.down(h, evidence)
            drawn.append(latents)
        return self.decode(h), drawn

    def summit(self, n: int) -> Tensor:
        """The h above all blocks, for n rows."""
        return self.top.expand(n, -1, *self.top_size)

    def decode(self, h: Tensor) -> Tensor:
        """The parameters (B, n_parameters, C, H, W) of the observation."""
        parameters: Tensor = self.last(F.elu(h))
        return parameters.unflatten(1, self.parameters_shape)

    def explain(self, x: Tensor, found: Sequence[Evidence]) -> Terms:
        """The parts of the bound, with a draw of the latents of each row."""
        parameters, drawn = self.look_down(found)
        log_prior, log_posterior = (
            torch.cat([density.sum((2, 3)) for density in densities], 1)
            for densities in zip(
                *((each.log_prior, each.log_posterior) for each in drawn), strict=True
            )
        )
        return Terms(self.observation.log_prob(x, parameters), log_prior, log_posterior)

    def latents(self, found: Sequence[Evidence]) -> Tensor:
        """A draw of all latents (B, Z) of rows that are encoded, the topmost block first."""
        return torch.cat([each.z.flatten(1) for each in self.look_down(found)[1]], 1)

    def bound(self, x: Tensor, draws: int) -> Tensor:
        """``log (1/K) sum_k p(x, z_k) / q(z_k | x)`` (B,), float64; one way up for all draws."""
        found = self.encode(x)
        return log_mean_exp(self.explain(x, found).bound for _ in range(draws))

    def sample(self, n: int, context: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
        """Draw n images (n, C, H, W) from p(x | z), the noise of each z times the temperature."""
        h = self.summit(n)
        for block in self.upwards[::-1]:
            noise = torch.randn(n, *block.latent_shape, dtype=h.dtype, device=h.device)
            h = block.generate(h, scaled(noise, temperature))
        return self.observation.sample(self.decode(h))
