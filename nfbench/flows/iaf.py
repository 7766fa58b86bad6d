"""Inverse autoregressive flow (Kingma et al. 2016)."""

from collections.abc import Sequence

from nfbench.transforms.inverse import Inverse

from .flow import Flow
from .maf import maf


def iaf(
    event_shape: Sequence[int],
    *,
    context_features: int = 0,
    layers: int = 4,
    hidden: Sequence[int] = (320, 320),
    activation: str = "elu",
    scale: str = "sigmoid",
    scale_bound: float = 5.0,
    init: str = "paper",
) -> Flow:
    """IAF (K): MAF turned round, one pass noise -> data, one step per dimension data -> noise.

    With the default ``scale`` a layer is ``x = sigmoid(a + 2) (z - m)``: the gate of the paper's
    section 4, open at the start, with another parametrization of the shift. Sizes are those of
    its MNIST models.
    """
    flow = maf(
        event_shape,
        context_features=context_features,
        layers=layers,
        hidden=hidden,
        activation=activation,
        batch_norm=False,
        scale=scale,
        scale_bound=scale_bound,
        init=init,
    )
    return Flow(flow.base, Inverse(flow.transform))
