"""Generating one dimension after another from a MADE, at the cost of a single masked pass.

A hidden unit of degree k depends on the first k generated dimensions only, so it is computed once,
when they are known. With units sorted by degree each step is a product with a contiguous slice of
the weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .activations import ACTIVATIONS
from .made import MADE

# (parameters (P, *shape), noise (*shape)) -> (values, log terms to add up over dimensions), of one
# dimension (B,) or of all (B, D)
Solve = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

MAX_ITERATIONS = 64  # of the gradient's equation, before dimensions are taken one by one


def autoregress(
    made: MADE, solve: Solve, noise: Tensor, context: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Generate x (B, D) from noise (B, D), and the sum of the log terms (B,).

    Incremental, and exact. Where a gradient is wanted it is that of the implicit function theorem
    at the x generated, so first derivatives only. Dropout takes no part, whatever the mode.
    """
    tensors = [noise, *made.parameters(), *([] if context is None else [context])]
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    x, total = incremental(made, solve, noise, context)
    if not wanted or x.is_meta:
        return x, total
    return implicit(made, solve, noise, context, x)


def implicit(
    made: MADE, solve: Solve, noise: Tensor, context: Tensor | None, x: Tensor
) -> tuple[Tensor, Tensor]:
    """The same x and log terms, as functions of noise, context and the weights of ``made``.

    x = G(x, noise), where G is one pass of the network and the scalar solutions.
    """
    x = x.detach().contiguous().requires_grad_()
    image, log_terms = solve(made.evaluate(x, context), noise)
    solved: tuple[Tensor, Tensor] = FixedPoint.apply(x, image, log_terms.sum(1), made.order)
    return solved


class FixedPoint(torch.autograd.Function):
    """``image = G(x)`` at the x where the two agree, with the gradient of that x.

    dG_i/dx_j is 0 unless j is generated before i, so that the gradient v of a loss with respect
    to the image, ``v = g + (dG/dx)^T v + (dlog/dx)^T g_log``, is found by iterating this equation,
    each time by one backward pass: exact after D times, and to rounding most often after a few.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, image: Tensor, log_term: Tensor, order: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Pass the image (B, D) and its log terms (B,) on."""
        ctx.x, ctx.image, ctx.log_term, ctx.order = x, image, log_term, order
        return image.clone(), log_term.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, g_log: Tensor) -> tuple[Tensor | None, ...]:
        """Solve for v by iteration, or if that does not converge one dimension after another."""

        def pulled(v: Tensor) -> Tensor:
            outputs = [(ctx.image, v), (ctx.log_term, g_log)]
            images, gradients = zip(*(o for o in outputs if o[0].requires_grad), strict=True)
            return g + torch.autograd.grad(images, ctx.x, gradients, retain_graph=True)[0]

        v = iterate(pulled, g)
        if v is None:
            v = torch.zeros_like(g)
            for i in reversed(ctx.order):
                v[:, i] = pulled(v)[:, i]
        return None, v, g_log, None


def iterate(function: Callable[[Tensor], Tensor], v: Tensor) -> Tensor | None:
    """The v (B, D) with ``v = function(v)`` to rounding; None if it is not found soon."""
    eps = torch.finfo(v.dtype).eps
    for _ in range(min(v.shape[1], MAX_ITERATIONS)):
        last, v = v, function(v)
        largest = v.abs().amax(1, keepdim=True)
        if (largest.isfinite() & ((v - last).abs() <= eps * largest)).all():
            return v
    return None


def full_passes(
    made: MADE, solve: Solve, noise: Tensor, context: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The plain way, one pass of the whole network per dimension: slow, the reference."""
    columns = list(torch.zeros_like(noise).unbind(1))
    total = noise.new_zeros(noise.shape[0])
    for i in made.order:
        parameters = made.evaluate(torch.stack(columns, dim=1), context)
        columns[i], log_term = solve(parameters[:, :, i], noise[:, i])
        total = total + log_term
    return torch.stack(columns, dim=1), total


@dataclass(frozen=True)
class Step:
    """What computes one dimension: new hidden units of each layer, and the dimension's outputs."""

    dimension: int
    new: list[slice]  # units of each hidden layer that become known
    weights: list[Tensor]  # (new units, known units of the layer before)
    biases: list[Tensor]  # (new units, 1)


@torch.no_grad()
def plan(made: MADE) -> list[Step]:
    """Cut the masked weights of ``made`` into the slices each step needs, as views."""
    first, *inner, last = made.masked_weights()
    weights = [first[:, made.order], *inner]
    outputs = last.view(made.n_parameters, made.features, -1)
    *hidden_biases, output_bias = (bias[:, None] for bias in made.biases)
    output_biases = output_bias.view(made.n_parameters, made.features, 1)
    known = [0] * len(made.degrees)
    # n -> how many units of each hidden layer depend on no more than n dimensions
    counts = [d.bincount(minlength=made.features).cumsum(0).tolist() for d in made.degrees]
    steps = []
    for n_generated, i in enumerate(made.order):
        ends = [count[n_generated] for count in counts]
        new = [slice(begin, end) for begin, end in zip(known, ends, strict=True)]
        sliced = zip(weights, new, [n_generated, *ends], strict=False)
        steps.append(
            Step(
                dimension=i,
                new=new,
                weights=[*(w[rows, :n] for w, rows, n in sliced), outputs[:, i, : ends[-1]]],
                biases=[
                    *(b[rows] for b, rows in zip(hidden_biases, new, strict=True)),
                    output_biases[:, i],
                ],
            )
        )
        known = ends
    return steps


@torch.no_grad()
def incremental(
    made: MADE, solve: Solve, noise: Tensor, context: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The fast way: each hidden unit is computed once; rows are features, so slices are whole."""
    n = noise.shape[0]
    noise = noise.t().contiguous()
    generated = torch.empty_like(noise)  # in the order of generation
    x = torch.empty_like(noise)  # in data order
    hidden = [noise.new_empty(len(degrees), n) for degrees in made.degrees]
    stream = noise.new_zeros(hidden[0].shape) if made.residual else None  # sum of blocks
    offset = made.offset(context)  # (B, hidden)
    total = noise.new_zeros(n)
    activate = ACTIVATIONS[made.activation]
    for n_generated, step in enumerate(plan(made)):
        below, n_below = generated, n_generated
        for layer, new in enumerate(step.new):
            if new.stop > new.start:
                units = torch.addmm(step.biases[layer], step.weights[layer], below[:n_below])
                if layer == 0 and offset is not None:
                    units += offset.t()[new]
                if stream is not None and layer % 2 == 0:
                    units = stream[new].add_(units)
                hidden[layer][new] = activate(units)
            below, n_below = hidden[layer], new.stop
        if stream is not None:
            below = stream
        parameters = torch.addmm(step.biases[-1], step.weights[-1], below[:n_below])  # (P, B)
        value, log_term = solve(parameters, noise[step.dimension])
        generated[n_generated] = x[step.dimension] = value
        total += log_term
    return x.t(), total
