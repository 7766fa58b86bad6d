"""All trained parameters as one vector: a step, clipping and averaging are single operations."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

ALIGNMENT = 16  # parameters start at multiples of 64 bytes, which matrix products like


@torch.no_grad()
def flatten(parameters: Sequence[nn.Parameter]) -> nn.Parameter:
    """Lay parameters out in one vector, of which they become views; return that vector.

    Moving the module to another device or dtype afterwards cuts the tie.
    """
    size = sum(padded(parameter) for parameter in parameters)
    vector = torch.zeros(size, dtype=parameters[0].dtype, device=parameters[0].device)
    for parameter, view in views(vector, parameters):
        parameter.data = view.copy_(parameter)
    return nn.Parameter(vector)


def tie_gradients(vector: nn.Parameter, parameters: Sequence[nn.Parameter]) -> None:
    """Make the parameters' gradients views of the vector's, zeroed; backward then adds to them."""
    vector.grad = torch.zeros_like(vector)
    for parameter, view in views(vector.grad, parameters):
        parameter.grad = view


def views(
    vector: Tensor, parameters: Sequence[nn.Parameter]
) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Each parameter with its own piece of the vector, shaped as it."""
    pieces = vector.split([padded(parameter) for parameter in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        yield parameter, piece[: parameter.numel()].view_as(parameter)


def padded(parameter: Tensor) -> int:
    """The room a parameter takes in the vector."""
    return -(-parameter.numel() // ALIGNMENT) * ALIGNMENT
