"""Full-covariance Gaussian, the baseline of every table."""

from collections.abc import Sequence
from math import prod

from nfbench.distributions.base import StandardNormal
from nfbench.transforms.whiten import Whiten

from .flow import Flow
from .recipe import recipe


@recipe
def gaussian(event_shape: Sequence[int], *, context_features: int = 0) -> Flow:
    """Maximum-likelihood Gaussian, fitted in closed form by calibration: no optimizer steps.

    Conditioned on labels it is a Gaussian for each class.
    """
    features = prod(event_shape)
    whiten = Whiten(features, context_features=context_features)
    return Flow(StandardNormal([features]), whiten)
