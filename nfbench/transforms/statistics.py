"""Which modules see more of the data than the point that they map."""

from torch import nn

from nfbench.nets.first_batch import FirstBatch
from nfbench.nets.running import RunningStatistics

from .base import Transform


def takes_statistics(module: nn.Module) -> bool:
    """Whether a module takes statistics of the data: its first batch, each batch, or all of it."""
    if isinstance(module, FirstBatch | RunningStatistics):
        return True
    return isinstance(module, Transform) and (
        module.needs_calibration or not module.inverts_in_training
    )
