"""Velocity fields: what moves the points of a continuous flow, and how it spreads them."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Field(nn.Module, ABC):
    """A velocity ``f(t, x)`` of points x (B, *event) at a time t; no row depends on another.

    Its divergence, the trace of df/dx, is how fast the log-density of a point that moves with it
    falls (Chen et al. 2018, theorem 1). Here it is taken by autograd, for any network; a subclass
    that knows its derivative overrides ``vjp`` and ``divergence``.

    Attributes:
        n_dims: how many dimensions a point has; None if the network takes points of any size.
    """

    n_dims: int | None = None

    @abstractmethod
    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The velocity (B, *event) of x at the scalar t."""

    def at_times(self, times: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The velocity (B, *event) of each row of x at its own time, times (B,).

        Weights that change with time are made for every row, which is slow; a subclass that knows
        how to share them overrides this.
        """

        def one(t: Tensor, row: Tensor, given: Tensor | None) -> Tensor:
            given = None if given is None else given.unsqueeze(0)
            velocity: Tensor = self(t, row.unsqueeze(0), given)
            return velocity.squeeze(0)

        ways = (0, 0, None if context is None else 0)
        found: Tensor = torch.vmap(one, in_dims=ways)(times, x, context)
        return found

    def vjp(
        self, t: Tensor, x: Tensor, probes: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The velocity, and ``e^T df/dx`` for each of the probes e, both (k, B, *event)."""
        velocity, rows = self.pull(t, x, list(probes), context)
        return velocity, torch.stack(rows)

    def divergence(
        self, t: Tensor, x: Tensor, probes: Tensor | None = None, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The velocity (B, *event), and its divergence (B,).

        With probes e (k, B, *event) of mean 0 and covariance I it is estimated, without bias, by
        the mean of ``e^T df/dx e`` over them (Hutchinson 1989; Grathwohl et al. 2018, eq. 7).
        """
        if probes is not None:
            velocity, rows = self.vjp(t, x, probes, context)
            return velocity, quadratic(rows, probes).mean(0)
        n_dims = math.prod(x.shape[1:])
        ways = torch.eye(n_dims, dtype=x.dtype, device=x.device).view(n_dims, 1, *x.shape[1:])
        velocity, (rows,) = self.pull(t, x, [ways.expand(-1, *x.shape)], context, batched=True)
        return velocity, quadratic(rows, ways).sum(0)

    def pull(
        self,
        t: Tensor,
        x: Tensor,
        ways: list[Tensor],
        context: Tensor | None,
        *,
        batched: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """The velocity, and for each way, or batch of them, its product with df/dx, by autograd.

        They are parts of a graph if gradients are enabled, and only then.
        """
        differentiable = torch.is_grad_enabled()
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "divergence: expected torch.no_grad() around it, got torch.inference_mode(), in "
                "which autograd finds no derivative"
            )
        with torch.enable_grad():
            if not (differentiable and x.requires_grad):
                x = x.detach().requires_grad_()
            velocity = self(t, x, context)
            if not velocity.requires_grad:
                return velocity, [torch.zeros_like(way) for way in ways]
            found = [
                torch.autograd.grad(
                    velocity,
                    x,
                    way,
                    retain_graph=True,
                    create_graph=differentiable,
                    materialize_grads=True,
                    is_grads_batched=batched,
                )[0]
                for way in ways
            ]
        return (velocity if differentiable else velocity.detach()), found


def quadratic(rows: Tensor, probes: Tensor) -> Tensor:
    """``e^T J e`` (k, B) from e^T J and e, both (k, B, *event)."""
    return (rows * probes).flatten(2).sum(2)
