"""torchdiffeq's solvers, with its two ways to a gradient, and errors that say what happened."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchdiffeq import odeint, odeint_adjoint

from nfbench.nets.first_order import first_order

from .dynamics import Dynamics

ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams")


def check_solver(solver: str, gradient: str, step_size: float | None) -> None:
    """Refuse a solver that does not go with the gradient or the step size."""
    if gradient == "replay" and solver != "dopri5":
        raise ValueError(
            f"gradient: expected adjoint or autograd with solver={solver}, got replay, which is "
            "that of dopri5"
        )
    if step_size is None and solver in FIXED:
        raise ValueError(
            f"step_size: expected a positive number with solver={solver}, whose steps have a "
            "size; got null"
        )
    if step_size is not None and solver not in FIXED:
        raise ValueError(
            f"step_size: expected null with solver={solver}, which controls its steps, got "
            f"{step_size}; solvers with steps of a size are {', '.join(FIXED)}"
        )


class System:
    """A right-hand side as torchdiffeq calls it: of a tuple of the point and the integrals."""

    def __init__(self, dynamics: Dynamics) -> None:
        self.dynamics = dynamics

    def __call__(self, t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The derivatives of all of them."""
        return self.dynamics(t, state[0])

    def callback_step(self, t: Tensor, state: object, step: Tensor) -> None:
        """Remember the step size that a solver tries."""
        self.dynamics.step = step

    callback_step_adjoint = callback_step


def solve(
    dynamics: Dynamics,
    x: Tensor,
    times: Tensor,
    settings: dict[str, Any],
    adjoint: Sequence[Tensor] | None = None,
) -> tuple[Tensor, ...]:
    """The point and the integrals at the second of two times.

    Args:
        dynamics: the right-hand side.
        x: the point (B, *event) at the first time.
        times: the two.
        settings: keywords of ``odeint``.
        adjoint: what gradients are found for by an adjoint solve; by autograd through the solver's
            operations if None.

    Raises:
        OdeError: if the step size underflows, if there are too many evaluations, or if the end is
            not finite.
    """
    state = (x, *dynamics.zeros(x))
    if settings["method"] in ADAPTIVE:
        # Steps end at the end, which is interpolated otherwise, with an error that nothing bounds.
        # Negative times are those of a solve that is reversed twice.
        ends = torch.unique(torch.cat([times, -times]).detach())
        settings = {**settings, "options": {**settings["options"], "step_t": ends}}
    system = System(dynamics)
    try:
        if adjoint is None:
            solution = odeint(system, state, times, **settings)
        else:
            solution = odeint_adjoint(
                system, state, times, adjoint_params=tuple(adjoint), **settings
            )
    except AssertionError as error:
        raise dynamics.failure(f"no solution ({str(error)[:40]})") from error
    ends = tuple(part[1] for part in solution)
    if not all(end.isfinite().all() for end in ends):
        raise dynamics.failure("the solution is not finite")
    return ends


class Solve(torch.autograd.Function):
    """A solve by torchdiffeq, of which evaluations are counted by phase and errors explained.

    Its graph, that of the solver's operations or of the adjoint equation, is kept inside.
    """

    @staticmethod
    def forward(
        ctx: Any,
        dynamics: Dynamics,
        settings: dict[str, Any],
        adjoint: bool,
        backwards: bool,
        time: Tensor,
        x: Tensor,
        context: Tensor | None,
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        """The point and the integrals at the end."""
        with torch.enable_grad():
            time = time.detach().requires_grad_(time.requires_grad)
            x = x.detach().requires_grad_()
            inputs = [x, *parameters]
            if context is not None:
                dynamics.context = context.detach().requires_grad_(context.requires_grad)
                inputs += [dynamics.context] if context.requires_grad else []
            times = interval(time, backwards)
            outputs = solve(dynamics, x, times, settings, inputs[1:] if adjoint else None)
        ctx.dynamics, ctx.adjoint, ctx.outputs = dynamics, adjoint, outputs
        ctx.inputs = [*inputs, *([time] if time.requires_grad else [])]
        ctx.n_parameters = len(parameters)
        return tuple(output.detach() for output in outputs)

    @staticmethod
    @first_order
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the time, the point, the context and the parameters."""
        dynamics: Dynamics = ctx.dynamics
        if ctx.adjoint:
            dynamics.begin("backward")
        pairs = zip(ctx.outputs, gradients, strict=True)
        outputs, ways = zip(*(pair for pair in pairs if pair[0].requires_grad), strict=True)
        try:
            found = list(
                torch.autograd.grad(
                    outputs, ctx.inputs, ways, retain_graph=True, allow_unused=True
                )
            )
        except AssertionError as error:
            message = f"no solution of the adjoint equation ({str(error)[:40]})"
            raise dynamics.failure(message) from error
        grad_time = found.pop() if ctx.needs_input_grad[4] else None
        grad_context = found.pop() if ctx.needs_input_grad[6] else None
        grad_x, *rest = found
        return None, None, None, None, grad_time, grad_x, grad_context, *rest


def interval(time: Tensor, backwards: bool) -> Tensor:
    """The times 0 and T, or T and 0."""
    zero = torch.zeros_like(time)
    return torch.stack([time, zero] if backwards else [zero, time])
