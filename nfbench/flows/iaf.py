"""Inverse autoregressive flow (Kingma et al. 2016)."""

from collections.abc import Sequence
from math import prod

from nfbench.distributions.base import StandardNormal
from nfbench.transforms.elementwise import SCALES, Affine, Elementwise, Gate
from nfbench.transforms.inverse import Inverse

from .flow import Flow
from .maf import masked_layers
from .recipe import recipe

FORGET_BIAS = 1.0


@recipe
def iaf(
    event_shape: Sequence[int],
    *,
    context_features: int = 0,
    layers: int = 4,
    hidden: Sequence[int] = (320, 320),
    activation: str = "elu",
    scale: str = "sigmoid",
    scale_bound: float = 5.0,
    forget_bias: float = 1.0,
    init: str = "paper",
) -> Flow:
    """IAF (K): MAF turned round, one pass noise -> data, one step per dimension data -> noise.

    With ``scale="gate"`` a layer is the paper's, ``x = sigma z + (1 - sigma) m`` with
    ``sigma = sigmoid(s + forget_bias)`` (section 4, algorithm 1). With the default it is
    ``x = sigmoid(a + 2) (z - m)``: the same factor, open at the start, with another
    parametrization of the shift. The other scales are those of ``Affine``. Sizes are those of
    its MNIST models.
    """
    features = prod(event_shape)
    transform = masked_layers(
        features,
        step(scale, scale_bound, forget_bias),
        layers=layers,
        hidden=hidden,
        activation=activation,
        batch_norm=False,
        context_features=context_features,
        init=init,
    )
    return Flow(StandardNormal([features]), Inverse(transform))


def step(scale: str, bound: float, forget_bias: float) -> Elementwise:
    """The gate, or the affine map with a scale of that name.

    Raises:
        ValueError: if there is no scale of that name, or it has no gate that forgets.
    """
    if scale == "gate":
        return Gate(bias=forget_bias)
    if scale not in SCALES:
        raise ValueError(f"scale: expected one of {', '.join(SCALES)}, gate; got {scale!r}")
    if forget_bias != FORGET_BIAS:
        raise ValueError(
            f"forget_bias: expected {FORGET_BIAS} with scale={scale}, which has none, got "
            f"{forget_bias}; it is that of scale=gate"
        )
    return Affine(scale=scale, bound=bound)
