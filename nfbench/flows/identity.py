"""No transform at all: what every flow is measured against."""

from collections.abc import Sequence
from math import prod

from nfbench.distributions.base import StandardNormal
from nfbench.transforms.identity import Identity

from .flow import Flow
from .recipe import recipe


@recipe
def identity(event_shape: Sequence[int], *, context_features: int = 0) -> Flow:
    """The standard normal itself; as the posterior of an autoencoder, its diagonal Gaussian.

    There is nothing to train, and a context changes nothing.
    """
    features = prod(event_shape)
    return Flow(StandardNormal([features]), Identity(context_features=context_features))
