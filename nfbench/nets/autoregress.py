"""Generating one dimension after another from a MADE, at the cost of a single masked pass.

A hidden unit of degree k depends on the first k generated dimensions only, so it is computed once,
when they are known. With units sorted by degree each step is a product with a contiguous slice of
the weights.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .activations import ACTIVATIONS
from .made import MADE

# (parameters (P, B) of one dimension, noise (B,)) -> (its value (B,), a log term (B,), added up
# over dimensions)
Solve = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def autoregress(
    made: MADE, solve: Solve, noise: Tensor, context: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Generate x (B, D) from noise (B, D), and the sum of the log terms (B,).

    Differentiable by D full passes where a gradient is wanted, otherwise incremental; both are
    exact.
    """
    tensors = [noise, *made.parameters(), *([] if context is None else [context])]
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return (full_passes if wanted else incremental)(made, solve, noise, context)


def full_passes(
    made: MADE, solve: Solve, noise: Tensor, context: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The plain way, one pass of the whole network per dimension: slow, differentiable, the
    reference.
    """
    columns = list(torch.zeros_like(noise).unbind(1))
    total = noise.new_zeros(noise.shape[0])
    for i in made.order:
        parameters = made(torch.stack(columns, dim=1), context)
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
