"""What a model is trained to do: (model, batch, context) -> scalar loss."""

from collections.abc import Callable

from torch import Tensor, nn

Objective = Callable[[nn.Module, Tensor, Tensor | None], Tensor]


def maximum_likelihood(model: nn.Module, x: Tensor, context: Tensor | None = None) -> Tensor:
    """Mean negative log-likelihood of the batch, in nats per example."""
    return -model(x, context).mean()


OBJECTIVES: dict[str, Objective] = {"maximum_likelihood": maximum_likelihood}
