"""Variational inference: a flow is fitted to an energy, from its own samples."""

from collections.abc import Callable

from torch import Tensor

from nfbench.density import DensityModel
from nfbench.flows.flow import Flow

Energy = Callable[[Tensor], Tensor]


def reverse_kl(
    model: DensityModel,
    x: Tensor,
    context: Tensor | None = None,
    beta: Tensor | float = 1.0,
    *,
    energy: Energy,
) -> Tensor:
    """``E_q[log q(z) + beta E(z)]`` in nats, which is KL(q || p) - log Z for beta 1.

    p(z) = exp(-E(z)) / Z; the mean is over as many samples z of the flow as the batch has rows,
    of which only the context is used, and the gradient goes along their way from the noise.
    Rezende & Mohamed 2015, equations 15 and 20, in which beta rises to 1, so that a flow spreads
    over the modes before it settles in them.
    """
    return excess(model, len(x), energy, context, beta).mean()


def excess(
    model: DensityModel,
    n: int,
    energy: Energy,
    context: Tensor | None = None,
    beta: Tensor | float = 1.0,
) -> Tensor:
    """``log q(z) + beta E(z)`` (n,) of n samples of a flow q, in nats."""
    assert isinstance(model, Flow)
    z, log_prob = model.sample_with_log_prob(n, context)
    return log_prob + beta * energy(z)


def closeness(model: DensityModel, rows: Tensor, *, energy: Energy) -> Tensor:
    """``-log q(z) - E(z)`` (B,) of as many samples as rows: of means the larger is closer."""
    return -excess(model, len(rows), energy)


def check_reverse_kl(model: DensityModel, *, energy: Energy) -> None:
    """Check that a model's samples have densities, and gradients that lead to its parameters.

    Raises:
        ValueError: if it is no flow, or one that takes statistics from data, of which there are
            none, bounds its likelihood only, or has a base with parameters.
    """
    if not isinstance(model, Flow):
        raise ValueError(
            "expected a plain flow, without preprocessing and unconditional of classes; got "
            f"{type(model).__name__}"
        )
    if model.needs_calibration:
        raise ValueError(
            "expected a flow without statistics of data, such as those of batch_norm, as no data "
            "are seen; got one with"
        )
    if model.likelihood == "lower bound":
        raise ValueError("expected the likelihood of a sample, exact or an estimate; got a bound")
    if any(parameter.requires_grad for parameter in model.base.parameters()):
        raise ValueError(
            "expected a base without parameters, to which no sample's gradient leads; got "
            f"{type(model.base).__name__}"
        )
