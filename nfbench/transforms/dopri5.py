"""The method of Dormand and Prince, and its derivative from checkpoints of its steps."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nfbench.nets.first_order import first_order

from .dynamics import Dynamics
from .tolerance import Tolerance

# Dormand & Prince (1980): where in a step each slope is taken, what of the slopes before leads
# there, and how a step of order 5 is weighted, which is where the next one starts. The error is
# estimated against Shampine's (1986) weights of order 4.
NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ORDER4 = (1951 / 21600, 0.0, 22642 / 50085, 451 / 720, -12231 / 42400, 649 / 6300, 1 / 60)
ERROR = tuple(b - c for b, c in zip((*STAGES[-1], 0.0), ORDER4, strict=True))
N_STAGES = len(STAGES)
# Stages that are only led through: what is integrated there counts neither in the sum nor in its
# error.
UNWEIGHTED = [i for i in range(N_STAGES) if STAGES[-1][i] == ERROR[i] == 0]
# Of the step size: the factor of the optimal one, and the bounds of its change.
SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0
SHORTEST = 16 * torch.finfo(torch.float64).eps  # step, as a part of the time


class Step(NamedTuple):
    """A step of h from (t, x), and the slopes of x alone at its stages, (stages, numbers in x)."""

    t: float
    h: float
    x: Tensor
    slopes: Tensor


class Solver:
    """One solve between two times, in either direction, of a point and its integrals.

    All lie in one vector, and so do the seven slopes of a step. The norm of an error, the first
    step and the control of the others are torchdiffeq's: the numbers of evaluations compare. What
    is integrated is not evaluated where it has no weight, in the second stage.
    """

    def __init__(
        self, dynamics: Dynamics, x: Tensor, span: tuple[float, float], tolerance: Tolerance
    ) -> None:
        self.dynamics, self.tolerance = dynamics, tolerance
        self.t, self.end = span
        self.way = 1.0 if self.end > self.t else -1.0
        integrals = dynamics.zeros(x)
        self.shapes = [x.shape, *(integral.shape for integral in integrals)]
        self.sizes = [x.numel(), *(integral.numel() for integral in integrals)]
        self.y = torch.cat([x.flatten(), *(integral.flatten() for integral in integrals)])
        self.slopes = self.y.new_empty(N_STAGES + 1, len(self.y))
        self.stages = [self.y.new_tensor(stage) for stage in STAGES]
        self.error = self.y.new_tensor(ERROR)
        self.find_slope(self.t, self.y, 0)

    def parts(self, y: Tensor) -> tuple[Tensor, ...]:
        """The point and the integrals in a vector."""
        pairs = zip(y.split(self.sizes), self.shapes, strict=True)
        return tuple(part.view(shape) for part, shape in pairs)

    def find_slope(self, t: float, y: Tensor, stage: int, *, alone: bool = False) -> None:
        """Evaluate the slope of a stage at a state; that of the point alone, or of all."""
        x = y[: self.sizes[0]].view(self.shapes[0])
        found = self.dynamics(y.new_full((), t), x, alone=alone)
        if alone:
            found = (*found, y.new_zeros(len(y) - x.numel()))
        torch.cat([part.flatten() for part in found], out=self.slopes[stage])

    def norm(self, scaled: Tensor) -> float:
        """The norm of a vector; NaN if any number is."""
        return self.tolerance.measure(scaled.split(self.sizes)).item()

    def first_step(self) -> float:
        """The size of a first step (Hairer et al. 1993, section II.4)."""
        slope, scale = self.slopes[0], self.tolerance.scale(self.y.abs())
        size, speed = self.norm(self.y / scale), self.norm(slope / scale)
        if not (math.isfinite(size) and math.isfinite(speed)):
            raise self.dynamics.failure("no first step")
        h = 1e-6 if min(size, speed) < 1e-5 else 0.01 * size / speed
        self.find_slope(self.t + self.way * h, self.y + self.way * h * slope, 1)
        turn = self.norm((self.slopes[1] - slope) / scale) / h
        if max(speed, turn) <= 1e-15:
            return min(100 * h, max(1e-6, 1e-3 * h))
        return min(100 * h, (0.01 / max(speed, turn)) ** 0.2) if math.isfinite(turn) else h

    def try_step(self, h: float) -> tuple[Tensor, float]:
        """The state after a step of h, and its error as a multiple of the tolerance."""
        y = self.y
        for stage, weights in enumerate(self.stages, 1):
            y = torch.addmv(self.y, self.slopes[:stage].t(), weights, alpha=h)
            self.find_slope(self.t + NODES[stage] * h, y, stage, alone=stage in UNWEIGHTED)
        error = (self.slopes.t() @ self.error).mul_(h)
        scale = self.tolerance.scale(torch.maximum(self.y.abs(), y.abs()))
        return y, self.norm(error.div_(scale))

    def run(self, steps: list[Step] | None = None) -> tuple[Tensor, ...]:
        """The point and the integrals at the end; adds every step to ``steps``.

        Raises:
            OdeError: if the step size falls to rounding, or evaluations are more than allowed.
        """
        size = self.first_step() if self.t != self.end else 0.0
        while self.t != self.end:
            left = abs(self.end - self.t)
            is_last = size >= left
            h = self.way * min(size, left)
            self.dynamics.step = h
            if abs(h) < SHORTEST * max(abs(self.t), abs(self.end)) and not is_last:
                raise self.dynamics.failure("the step size falls to rounding")
            y, error = self.try_step(h)
            if error <= 1:
                if steps is not None:
                    slopes = self.slopes[:N_STAGES, : self.sizes[0]].clone()
                    steps.append(Step(self.t, h, self.parts(self.y)[0], slopes))
                self.t, self.y = self.end if is_last else self.t + h, y
                self.slopes[0] = self.slopes[-1]
            size = abs(h) * change(error)
        return self.parts(self.y)


def change(error: float) -> float:
    """How the step size changes after a step of this error; it shrinks most if that is NaN."""
    if not math.isfinite(error):
        return SHRINK
    best = SAFETY * max(error, 1e-10) ** -0.2
    return min(GROW, max(best, 1.0 if error < 1 else SHRINK))


@torch.no_grad()
def integrate(
    dynamics: Dynamics, x: Tensor, span: tuple[float, float], tolerance: Tolerance
) -> tuple[Tensor, ...]:
    """The point (B, *event) that x moves to between two times, and the integrals on its way."""
    return Solver(dynamics, x, span, tolerance).run()


class Replay(torch.autograd.Function):
    """A solve, and the derivative of its accepted steps.

    Forwards the point before each step and its slopes are all that is kept. Backwards the stages
    are evaluated once more, one at a time from the last, and differentiated as they are, step
    sizes being constants (Zhuang et al. 2020, ACA): the gradient of the numbers that were
    returned, with the graph of a single evaluation. Integrals do not act back on the point: their
    gradients are the same at every step. The gradient of the time T is that of the exact solution.
    """

    @staticmethod
    def forward(
        ctx: Any,
        dynamics: Dynamics,
        tolerance: Tolerance,
        backwards: bool,
        time: Tensor,
        x: Tensor,
        context: Tensor | None,
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        """The point and the integrals at the end."""
        end = time.item()
        solver = Solver(dynamics, x, (end, 0.0) if backwards else (0.0, end), tolerance)
        ctx.dynamics, ctx.backwards, ctx.steps = dynamics, backwards, []
        ctx.save_for_backward(*parameters)
        ctx.edge = solver.parts(solver.slopes[0].clone())  # the slopes at time T
        outputs = solver.run(ctx.steps)
        if not backwards:
            ctx.edge = solver.parts(solver.slopes[0].clone())
        return tuple(output.clone() for output in outputs)

    @staticmethod
    @first_order
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the time, the point, the context and the parameters."""
        dynamics: Dynamics = ctx.dynamics
        dynamics.begin("backward")
        grad_x, *grad_integrals = gradients
        others = list(ctx.saved_tensors)
        if ctx.needs_input_grad[5]:
            dynamics.context = dynamics.context.detach().requires_grad_()  # type: ignore[union-attr]
            others.append(dynamics.context)
        found: list[Tensor | None] = [None] * len(others)
        pullback = Pullback(grad_x, grad_integrals, others, found)
        for step in reversed(ctx.steps):
            pullback.step(dynamics, step)
        ends = (pullback.grad_x if ctx.backwards else grad_x, *grad_integrals)
        pairs = zip(ctx.edge, ends, strict=True)
        along = torch.stack([torch.sum(slope * way) for slope, way in pairs]).sum()
        grad_time = -along if ctx.backwards else along
        grad_context = found.pop() if ctx.needs_input_grad[5] else None
        return None, None, None, grad_time, pullback.grad_x, grad_context, *found


class Pullback:
    """Gradients carried backwards through steps.

    Args:
        grad_x: of the point after the last step.
        grad_integrals: of the integrals.
        others: the parameters, and the context if there is one.
        found: their gradients, to which each step adds.
    """

    def __init__(
        self,
        grad_x: Tensor,
        grad_integrals: list[Tensor],
        others: list[Tensor],
        found: list[Tensor | None],
    ) -> None:
        self.grad_x, self.grad_integrals = grad_x, grad_integrals
        self.others, self.found = others, found
        rows = [(*stage, *[0.0] * (N_STAGES - len(stage))) for stage in STAGES]
        self.stages = grad_x.new_tensor(rows)

    def step(self, dynamics: Dynamics, step: Step) -> None:
        """Carry the gradients from after a step to before it."""
        t, h, x, slopes = step
        pulled = torch.empty_like(slopes)  # gradients of the points of the stages
        grad = self.grad_x.flatten()
        for stage in reversed(range(N_STAGES)):
            y = x if stage == 0 else self.lead(x, slopes[:stage], stage, h)
            alone = stage in UNWEIGHTED
            with torch.enable_grad():
                y = y.detach().requires_grad_()
                outputs = dynamics(x.new_full((), t + NODES[stage] * h), y, alone=alone)
            weight = STAGES[-1][stage] * h
            way = torch.addmv(
                grad,
                pulled[stage + 1 :].t(),
                self.stages[stage : N_STAGES - 1, stage],
                beta=weight,
                alpha=h,
            )
            ways = [way.view_as(x), *([] if alone else [weight * g for g in self.grad_integrals])]
            pulled[stage] = self.pull(y, outputs, ways).flatten()
        self.grad_x = (grad + pulled.sum(0)).view_as(x)

    def lead(self, x: Tensor, slopes: Tensor, stage: int, h: float) -> Tensor:
        """The point of a stage, from the slopes of those before it."""
        weights = self.stages[stage - 1, :stage]
        return torch.addmv(x.flatten(), slopes.t(), weights, alpha=h).view_as(x)

    def pull(self, y: Tensor, outputs: tuple[Tensor, ...], ways: list[Tensor]) -> Tensor:
        """The gradient of a stage's point; those of the others are added to what is found."""
        pairs = [pair for pair in zip(outputs, ways, strict=True) if pair[0].requires_grad]
        if not pairs:
            return torch.zeros_like(y)
        grad, *rest = torch.autograd.grad(
            [output for output, _ in pairs],
            [y, *self.others],
            [way for _, way in pairs],
            allow_unused=True,
        )
        for i, new in enumerate(rest):
            known = self.found[i]
            if new is not None:
                self.found[i] = new if known is None else known.add_(new)
        return torch.zeros_like(y) if grad is None else grad
