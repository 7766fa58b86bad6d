"""Gradients that are worked out by hand, and have none of their own."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """The backward of a `torch.autograd.Function`, which refuses second derivatives.

    Torch's `once_differentiable` refuses only a walk through the whole graph: asked for the
    gradient of some inputs, it leaves out what leads through here, and says nothing.
    """

    @wraps(backward)
    def refusing(ctx: Any, *gradients: Any) -> Any:
        """Grad mode is on where a graph of the gradient is wanted."""
        if torch.is_grad_enabled():
            raise RuntimeError(
                "expected create_graph=False: this gradient is worked out by hand, and has first "
                "derivatives only"
            )
        return backward(ctx, *gradients)

    return refusing
