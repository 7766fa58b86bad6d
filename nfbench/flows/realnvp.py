"""Real NVP (Dinh et al. 2016), set up for tabular data as by Papamakarios et al. (2017)."""

from collections.abc import Sequence
from math import prod

from nfbench.distributions.base import StandardNormal
from nfbench.nets.mlp import MLP
from nfbench.transforms.base import Compose, Transform
from nfbench.transforms.coupling import Coupling, ShiftAndScale
from nfbench.transforms.elementwise import Affine
from nfbench.transforms.normalize import BatchNorm
from nfbench.transforms.permute import Permute, alternate

from .flow import Flow


def realnvp(
    event_shape: Sequence[int],
    *,
    context_features: int = 0,
    layers: int = 10,
    hidden: Sequence[int] = (100, 100),
    scale_activation: str = "tanh",
    shift_activation: str = "relu",
    batch_norm: bool = True,
    scale: str = "exp",
    scale_bound: float = 5.0,
    init: str = "paper",
) -> Flow:
    """Real NVP (K): ``layers`` affine couplings of alternate dimensions, halves swapped at each.

    The scale net is tanh, the shift net relu; the log-scale is linear and unbounded unless
    ``scale`` says otherwise.
    """
    features = prod(event_shape)
    if features < 2:
        raise ValueError(
            f"realnvp: expected at least 2 dimensions to split in halves, got {features}"
        )
    halves = (features - features // 2, features // 2)  # even, odd dimensions
    parts: list[Transform] = [Permute(alternate(features))]
    for layer in range(layers):
        fixed, mapped = halves[::-1] if layer % 2 else halves
        shift, raw_scale = (
            MLP(
                fixed,
                mapped,
                hidden=hidden,
                activation=name,
                context_features=context_features,
                init=init,
            )
            for name in (shift_activation, scale_activation)
        )
        affine = Affine(scale=scale, bound=scale_bound)
        conditioner = ShiftAndScale(shift, raw_scale)
        parts.append(Coupling(conditioner, affine, n_first=halves[0], swap=layer % 2 == 1))
        if batch_norm:
            parts.append(BatchNorm(features))
    return Flow(StandardNormal([features]), Compose(parts))
