"""Maximum likelihood, alone or with what makes a continuous flow easy to integrate."""

from torch import Tensor, nn

from nfbench.density import DensityModel
from nfbench.transforms.ode import ODE


def maximum_likelihood(model: DensityModel, x: Tensor, context: Tensor | None = None) -> Tensor:
    """Mean negative log-likelihood of the batch, in nats per example."""
    return -model(x, context).mean()


def regularized_likelihood(
    model: DensityModel,
    x: Tensor,
    context: Tensor | None = None,
    *,
    kinetic_weight: float = 0.0,
    jacobian_weight: float = 0.0,
    path_weight: float = 0.0,
) -> Tensor:
    """``-mean log p(x) + sum_k w_k R_k`` (Finlay et al. 2020, equation 9), in nats per example.

    R_k are the penalties of the flow's ODEs, integrals over time of what is summed over the
    dimensions and averaged over the batch: of |f|^2, |df/dx|^2 and |f|.
    """
    loss = maximum_likelihood(model, x, context)
    weights = used(kinetic=kinetic_weight, jacobian=jacobian_weight, path=path_weight)
    for ode in odes(model):
        for name, weight in weights.items():
            loss = loss + weight * ode.penalties[name]
    return loss


def check_penalties(
    model: DensityModel,
    *,
    kinetic_weight: float = 0.0,
    jacobian_weight: float = 0.0,
    path_weight: float = 0.0,
) -> None:
    """Check that each ODE of the flow keeps the penalties that have a weight, and no others.

    Raises:
        ValueError: if one does not, or if there is no ODE or no weight.
    """
    weights = used(kinetic=kinetic_weight, jacobian=jacobian_weight, path=path_weight)
    parts = odes(model)
    if not parts:
        raise ValueError("expected a flow with an ODE, whose penalties are weighed; got none")
    if not weights:
        raise ValueError(
            "expected a positive weight (kinetic_weight, jacobian_weight or path_weight); got "
            "none, which is maximum_likelihood"
        )
    for ode in parts:
        if set(ode.regularize) != set(weights):
            raise ValueError(
                f"expected a weight for each penalty of flow.regularize, {list(ode.regularize)}, "
                f"and for no other; got weights for {list(weights)}"
            )


def used(**weights: float) -> dict[str, float]:
    """The weights that are not zero."""
    return {name: weight for name, weight in weights.items() if weight}


def odes(model: nn.Module) -> list[ODE]:
    """Every ODE in a model."""
    return [part for part in model.modules() if isinstance(part, ODE)]
