"""The gradient of an objective compiled as one function of all weights.

Forward and backward pass become one graph, where autograd would walk over a node for each
operation and each parameter: steps of small nets in small batches take half the time.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nfbench.flat import padded
from nfbench.nets.first_batch import FirstBatch

# (weights (P,), *arguments of the objective) -> gradient (P,), loss
Gradient = Callable[..., tuple[Tensor, Tensor]]


class Loss(nn.Module):
    """An objective of a model as a module, whose parameters can be exchanged."""

    def __init__(self, model: nn.Module, objective: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, *arguments: Any) -> Tensor:
        """The objective of the model."""
        return self.objective(self.model, *arguments)


def is_function(model: nn.Module) -> bool:
    """Whether the model's density changes nothing in training, as a function of its weights."""
    return not any(
        isinstance(part, FirstBatch) or getattr(part, "keeps_running_statistics", False)
        for part in model.modules()
    )


def compile_gradient(
    model: nn.Module,
    objective: Callable[..., Tensor],
    trained: Sequence[nn.Parameter],
    *,
    backend: str = "inductor",
) -> Gradient:
    """The compiled ``(dL/dw, L)`` of an objective L, w being the trained parameters as one vector.

    Raises, when called:
        RuntimeError: if torch.func cannot differentiate the model: it has a gradient of its own.
    """
    found = {parameter: f"model.{name}" for name, parameter in model.named_parameters()}
    names = [found[parameter] for parameter in trained]
    # Taken now, so that a call need not look at the parameters themselves.
    rooms, shapes = [padded(each) for each in trained], [each.shape for each in trained]
    loss = Loss(model, objective)

    def value(weights: Tensor, *arguments: Any) -> Tensor:
        """The loss at these weights."""
        parameters = {
            name: piece[: shape.numel()].view(shape)
            for name, piece, shape in zip(names, weights.split(rooms), shapes, strict=True)
        }
        result: Tensor = torch.func.functional_call(loss, parameters, arguments)
        return result

    compiled = torch.compile(torch.func.grad_and_value(value), dynamic=False, backend=backend)
    return torch.no_grad()(compiled)
