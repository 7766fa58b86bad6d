"""Full-covariance Gaussian, the baseline of every table."""

from collections.abc import Sequence
from math import prod

from nfbench.distributions.base import StandardNormal
from nfbench.transforms.whiten import Whiten

from .flow import Flow


def gaussian(event_shape: Sequence[int], *, context_features: int = 0) -> Flow:
    """Maximum-likelihood Gaussian, fitted in closed form by calibration: no optimizer steps.

    Raises:
        ValueError: if it shall be conditional.
    """
    if context_features:
        raise ValueError(f"gaussian: expected no context, got {context_features} context features")
    features = prod(event_shape)
    return Flow(StandardNormal([features]), Whiten(features))
