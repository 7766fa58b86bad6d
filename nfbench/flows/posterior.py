"""Which flows can be the posterior of an autoencoder: those trained from noise to data."""

from torch import nn

from nfbench.distributions.base import StandardNormal
from nfbench.nets.first_batch import FirstBatch
from nfbench.transforms.statistics import takes_statistics
from nfbench.transforms.whiten import Whiten

from .flow import Flow


def check_posterior(flow: Flow) -> None:
    """Check that a flow's transform can move the noise of an encoder, z_0 -> z_K.

    Its ``inverse`` does, in training too (Rezende & Mohamed 2015, equation 15): nothing is seen of
    the data side beforehand, and no batch of it. The noise is the encoder's Gaussian, so that the
    flow's base must be a Gaussian too.

    Raises:
        ValueError: if a part takes statistics from data or starts from them, or the base is not
            standard normal.
    """
    if not isinstance(flow.base, StandardNormal):
        raise ValueError(
            "posterior: expected a flow with a standard normal base, as the noise is the "
            f"encoder's Gaussian; got {type(flow.base).__name__}; nice takes prior=gaussian, and "
            "maf is maf_mog without the mixture"
        )
    for module in reversed(list(flow.transform.modules())):  # parts before what they are parts of
        reason = obstacle(module)
        if reason is not None:
            raise ValueError(
                "posterior: expected a flow that can be trained from noise to data, got "
                f"{type(module).__name__}, {reason}"
            )


def obstacle(module: nn.Module) -> str | None:
    """What a module takes from data, and what would work instead; None if nothing."""
    if isinstance(module, Whiten):
        return "which is fitted to data; flow identity makes the posterior a Gaussian"
    if isinstance(module, FirstBatch):
        return (
            "which starts from the first batch of data; realnvp with batch_norm=false, or nsf, "
            "has couplings without"
        )
    if takes_statistics(module):
        return "which takes statistics from data; set batch_norm=false"
    return None
