"""Flows of images after the tutorial of Lippe (2021), https://github.com/Lightning-AI/tutorials."""

from collections.abc import Sequence
from functools import partial
from math import prod

from torch import Tensor

from nfbench.distributions.base import StandardNormal
from nfbench.nets.gated import GatedNet
from nfbench.transforms.base import Compose, Transform
from nfbench.transforms.elementwise import Affine
from nfbench.transforms.masked import MaskedCoupling, checkerboard, first_half
from nfbench.transforms.multiscale import MultiScale, Split
from nfbench.transforms.squeeze import Squeeze

from .flow import Flow
from .mixing import image_shape
from .recipe import recipe

# On images of full, of half and of a quarter of their sides.
COUPLINGS = (2, 2, 4)


@recipe
def lippe_image(
    event_shape: Sequence[int],
    *,
    context_features: int = 0,
    multiscale: bool = True,
    hidden: Sequence[int] = (32, 48, 64),
    blocks: int = 3,
) -> Flow:
    """Eight affine couplings with gated nets (Lippe 2021, "Normalizing Flows for Image Modeling").

    Two map the colors of a checkerboard; images are squeezed, two map the channels, half of the
    channels leave, the rest is squeezed, and four map the channels. The nets have ``hidden``
    channels on the three scales. Unless ``multiscale``, all eight map the colors, with the nets of
    the first scale. Couplings are z = (x - m) exp(s), as there but for the sign of m, which the
    nets take as likely in either way.
    """
    channels, height, width = image_shape("lippe_image", event_shape, 4 if multiscale else 1)
    if len(hidden) != len(COUPLINGS):
        raise ValueError(
            f"hidden: expected {len(COUPLINGS)} numbers, one for each scale, got {list(hidden)}"
        )
    net = partial(GatedNet, blocks=blocks, context_features=context_features)
    nets = [
        partial(net, n * channels, n * channels, hidden=width_of_net)
        for n, width_of_net in zip((1, 4, 8), hidden, strict=True)
    ]
    colors = [checkerboard((height, width), swap=swap) for swap in (False, True)]
    if not multiscale:
        levels = [couplings(sum(COUPLINGS), nets[0], colors)]
        shapes = [(channels, height, width)]
    else:
        halves, halves_of_last = (
            [first_half(n * channels, swap=swap) for swap in (False, True)] for n in (4, 8)
        )
        first = couplings(COUPLINGS[0], nets[0], colors)
        first += [Squeeze(), *couplings(COUPLINGS[1], nets[1], halves)]
        levels = [first, [Squeeze(), *couplings(COUPLINGS[2], nets[2], halves_of_last)]]
        shapes = [
            (4 * channels, height // 2, width // 2),
            (8 * channels, height // 4, width // 4),
        ]
    splits = [Split() for _ in levels[:-1]]
    transform = MultiScale([Compose(level) for level in levels], shapes, splits)
    return Flow(StandardNormal([prod(event_shape)]), transform)


def couplings(n: int, net: partial[GatedNet], masks: Sequence[Tensor]) -> list[Transform]:
    """``n`` affine couplings, which keep what is 1 in the masks in turn."""
    return [MaskedCoupling(net(), Affine(), masks[i % len(masks)]) for i in range(n)]
