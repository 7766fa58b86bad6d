"""How far a flow is from a density that is known up to a factor, told by the flow's samples."""

from collections.abc import Callable

from torch import Tensor

from nfbench.density import DensityModel
from nfbench.flows.flow import Flow


def excess(model: DensityModel, n: int, energy: Callable[[Tensor], Tensor]) -> Tensor:
    """``log q(x) + U(x)`` (n,) of n samples: their mean is KL(q | p) - log Z, p = exp(-U) / Z."""
    assert isinstance(model, Flow)
    x, log_q = model.sample_with_log_prob(n)
    return log_q + energy(x)


def closeness(model: DensityModel, rows: Tensor, *, energy: Callable[[Tensor], Tensor]) -> Tensor:
    """``-log q(x) - U(x)`` (B,) of as many samples as there are rows: of means the larger is
    closer.
    """
    return -excess(model, len(rows), energy)
