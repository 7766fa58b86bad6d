"""What a model is trained to do: (model, batch, context) -> scalar loss."""

from collections.abc import Callable

from torch import Tensor

from nfbench.density import DensityModel

Objective = Callable[[DensityModel, Tensor, Tensor | None], Tensor]


def maximum_likelihood(model: DensityModel, x: Tensor, context: Tensor | None = None) -> Tensor:
    """Mean negative log-likelihood of the batch, in nats per example."""
    return -model(x, context).mean()


OBJECTIVES: dict[str, Objective] = {"maximum_likelihood": maximum_likelihood}
