"""Training in memory that does not grow with depth: activations are recomputed by the inverse."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from nfbench.nets.first_order import first_order

from .base import Compose, Transform


class Reversible(Compose):
    """Transforms in order, of which training keeps the output alone.

    Backwards, the input of each part is its inverse at its output, and only then does autograd see
    that one part (Gomez et al. 2017): one more inverse and one more forward for memory of a single
    part. The gradients are those of ``Compose`` up to the rounding of the inverses, which nets in
    bfloat16 make larger. Dropout in a net would be drawn anew: there must be none.

    Raises:
        ValueError: if a part's inverse in training does not undo its forward, as batch norm's.
    """

    def __init__(self, transforms: Iterable[Transform]) -> None:
        super().__init__(transforms)
        for module in self.modules():
            if isinstance(module, Transform) and not module.inverts_in_training:
                raise ValueError(
                    "Reversible: expected parts whose inverse undoes them in training, got a "
                    f"{type(module).__name__}"
                )

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data (B, *event) to noise; return the noise and log|det dz/dx| (B,)."""
        if not torch.is_grad_enabled():
            return super().forward(x, context)
        parameters = [p for p in self.parameters() if p.requires_grad]
        z, log_det = Recompute.apply(self, x, context, *parameters)
        return z, log_det


class Recompute(torch.autograd.Function):
    """The derivative of ``Reversible``, part by part from its output."""

    @staticmethod
    def forward(
        ctx: Any, chain: Reversible, x: Tensor, context: Tensor | None, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Noise and log-determinants of all parts, without a graph."""
        z, log_det = Compose.forward(chain, x, context)
        ctx.chain, ctx.parameters = chain, parameters
        ctx.save_for_backward(z, *([] if context is None else [context]))
        return z, log_det

    @staticmethod
    @first_order
    def backward(ctx: Any, grad_z: Tensor, grad_log_det: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the data, the context and the parameters."""
        z, *given = ctx.saved_tensors
        context = given[0].detach() if given else None
        if context is not None:
            context.requires_grad_(ctx.needs_input_grad[2])
        gradients: dict[int, Tensor] = {}
        for part in reversed(ctx.chain.parts):
            z, grad_z = differentiate(part, z, context, (grad_z, grad_log_det), gradients)
        found = (gradients.get(id(p)) for p in ctx.parameters)
        return None, grad_z, gradients.get(id(context)), *found


def differentiate(
    part: Transform,
    z: Tensor,
    context: Tensor | None,
    seeds: tuple[Tensor, Tensor],
    gradients: dict[int, Tensor],
) -> tuple[Tensor, Tensor]:
    """Data and their gradient from the output of a part and the gradients of that.

    Those of its parameters and of the context are added to the others in ``gradients``.
    """
    leaves, *images = part.retrace(z, context)
    wanted: list[Tensor] = [p for p in part.parameters() if p.requires_grad]
    if context is not None and context.requires_grad:
        wanted.append(context)
    pairs = (pair for pair in zip(images, seeds, strict=True) if pair[0].requires_grad)
    outputs, ways = zip(*pairs, strict=True)
    found = torch.autograd.grad(outputs, [*leaves, *wanted], ways, allow_unused=True)
    for tensor, gradient in zip(wanted, found[len(leaves) :], strict=True):
        if gradient is not None:
            known = gradients.get(id(tensor))
            gradients[id(tensor)] = gradient if known is None else known + gradient
    with torch.no_grad():
        return part.join(*leaves), part.join(*found[: len(leaves)])
