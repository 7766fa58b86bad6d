"""Generating one dimension after another from a MADE, at the cost of a single masked pass.

A hidden unit of degree k depends on the first k generated dimensions only, so it is computed once,
when they are known. With units sorted by degree each step is a product with a contiguous slice of
the weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from .activations import IN_PLACE
from .first_order import first_order
from .made import MADE

# (parameters (P, *shape), noise (*shape)) -> (values, log terms to add up over dimensions), of one
# dimension (B,) or of all (B, D)
Solve = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# Dimensions up to which as many passes under autograd cost less than the implicit gradient does
# (benchmarks/inverse.py).
FEW = 4
# Dimensions up to which they cost less on a GPU even without a gradient: each step of the
# incremental way launches several small kernels for each layer (the same).
FEW_ON_GPU = 48
MAX_ITERATIONS = 64  # of the gradient's equation, before dimensions are taken one by one


def autoregress(
    made: MADE, solve: Solve, noise: Tensor, context: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Generate x (B, D) from noise (B, D), and the sum of the log terms (B,).

    Incremental, or on a GPU for few dimensions by full passes, and exact. Where a gradient is
    wanted it is that of the implicit function theorem at the x generated, so first derivatives
    only; very few dimensions take full passes under autograd instead. Dropout takes no part,
    whatever the mode.
    """
    tensors = [noise, *made.parameters(), *([] if context is None else [context])]
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    if wanted and made.features <= FEW:
        return full_passes(made, solve, noise, context)
    way = full_passes if noise.is_cuda and made.features <= FEW_ON_GPU else incremental
    with torch.no_grad():
        x, total = way(made, solve, noise, context)
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
    @first_order
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
        # Each number on its own: one that is still small may wait for a link to a large one.
        if (v.isfinite() & ((v - last).abs() <= eps * v.abs())).all():
            return v
    return None


def full_passes(
    made: MADE, solve: Solve, noise: Tensor, context: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The plain way, one pass of the whole network per dimension: slow, the reference.

    The first dimension of several depends on nothing but the context, and without one takes none.
    """
    columns = list(torch.zeros_like(noise).unbind(1))
    total = noise.new_zeros(noise.shape[0])
    biases = made.biases[-1].view(made.n_parameters, made.features)
    for i in made.order:
        if i == made.order[0] and context is None and made.features > 1:
            parameters = biases[:, i, None].expand(-1, len(noise))
        else:
            parameters = made.evaluate(torch.stack(columns, dim=1), context)[:, :, i]
        columns[i], log_term = solve(parameters, noise[:, i])
        total = total + log_term
    return torch.stack(columns, dim=1), total


@dataclass(frozen=True)
class Plan:
    """The masked weights of a MADE, cut into what each step needs, as views."""

    ends: list[list[int]]  # known units of each hidden layer, after each step
    new: list[list[int]]  # those that the step makes known
    weights: list[tuple[Tensor, ...]]  # of each hidden layer and step: (new units, units below)
    biases: list[tuple[Tensor, ...]]  # (new units, 1)
    outputs: tuple[Tensor, ...]  # of each dimension: (P, units below)
    output_biases: tuple[Tensor, ...]  # (P, 1)


def plan(made: MADE) -> Plan:
    """Cut by a few calls for each layer, since one for each step would take longer than the step's
    products.
    """
    first, *inner, last = made.masked_weights()
    new = [degrees.bincount(minlength=made.features).tolist() for degrees in made.degrees]
    weights = zip([first[:, made.order], *inner], new, strict=True)
    return Plan(
        ends=[list(accumulate(each)) for each in new],
        new=new,
        weights=[weight.split(sizes) for weight, sizes in weights],
        biases=[b[:, None].split(sizes) for b, sizes in zip(made.biases, new, strict=False)],
        outputs=last.view(made.n_parameters, made.features, -1).unbind(1),
        output_biases=made.biases[-1].view(made.n_parameters, made.features, 1).unbind(1),
    )


@torch.no_grad()
def incremental(
    made: MADE, solve: Solve, noise: Tensor, context: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The fast way: each hidden unit is computed once; rows are features, so slices are whole."""
    cut, n = plan(made), noise.shape[0]
    noise = noise.t().contiguous()
    generated = torch.empty_like(noise)  # in the order of generation
    hidden = [noise.new_empty(len(degrees), n) for degrees in made.degrees]
    parts = [each.split(sizes) for each, sizes in zip(hidden, cut.new, strict=True)]
    stream = noise.new_zeros(hidden[0].shape) if made.residual else None  # sum of blocks
    streams = None if stream is None else stream.split(cut.new[0])
    offset = made.offset(context)  # (B, hidden)
    offsets = None if offset is None else offset.t().split(cut.new[0])
    activate, log_terms = IN_PLACE[made.activation], []
    noises, values = noise.unbind(), generated.unbind()
    for step, i in enumerate(made.order):
        below = generated[:step]
        for layer, part in enumerate(parts):
            if cut.new[layer][step]:
                weight = cut.weights[layer][step][:, : len(below)]
                units = torch.addmm(cut.biases[layer][step], weight, below, out=part[step])
                if layer == 0 and offsets is not None:
                    units += offsets[step]
                if streams is not None and layer % 2 == 0:
                    units.copy_(streams[step].add_(units))
                activate(units)
            below = hidden[layer][: cut.ends[layer][step]]
        if stream is not None:
            below = stream[: len(below)]
        weight = cut.outputs[i][:, : len(below)]
        parameters = torch.addmm(cut.output_biases[i], weight, below)  # (P, B)
        value, log_term = solve(parameters, noises[i])
        values[step].copy_(value)
        log_terms.append(log_term)
    x = torch.empty_like(generated)
    x[made.order] = generated  # in data order
    return x.t(), torch.stack(log_terms).sum(0)
