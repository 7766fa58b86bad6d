"""Full-covariance Gaussian, the baseline of every table."""

from collections.abc import Sequence
from math import prod

from nfbench.distributions.base import StandardNormal
from nfbench.transforms.whiten import Whiten

from .flow import Flow


def gaussian(event_shape: Sequence[int], *, context_features: int = 0) -> Flow:
    """Maximum-likelihood Gaussian, fitted in closed form when it is calibrated: no optimizer
    steps.
    """
    features = prod(event_shape)
    return Flow(StandardNormal([features]), Whiten(features))
