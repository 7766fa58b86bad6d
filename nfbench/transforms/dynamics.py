"""The right-hand side of a continuous flow: a velocity, and what is integrated along the way."""

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from nfbench.errors import OdeError
from nfbench.nets.field import Field, quadratic

RECENT = 8  # points that are kept to explain a failure: those of a step
PHASES = ("forward", "backward", "evaluation", "sampling")
# Phase, solves and evaluations to add.
Count = Callable[[str, int, int], None]
ADVICE = (
    "try a higher tolerance (atol, rtol), weight decay, a regularizer (kinetic, jacobian) or a "
    "lower training.learning_rate"
)


def kinetic(velocity: Tensor, rows: Tensor | None) -> Tensor:
    """|f|^2, (B,)."""
    return velocity.flatten(1).square().sum(1)


def path(velocity: Tensor, rows: Tensor | None) -> Tensor:
    """|f|, (B,)."""
    return torch.linalg.vector_norm(velocity.flatten(1), dim=1)


def jacobian(velocity: Tensor, rows: Tensor | None) -> Tensor:
    """The mean of |e^T df/dx|^2 over the probes e, (B,): it estimates |df/dx|^2."""
    assert rows is not None
    return rows.flatten(2).square().sum(2).mean(0)


# From the velocity (B, *event) and e^T df/dx (k, B, *event) to what is integrated, (B,).
REGULARIZERS: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "kinetic": kinetic,
    "jacobian": jacobian,
    "path": path,
}


class Dynamics:
    """One solve's right-hand side: from (t, x) to the velocity and integrands of x alone.

    Args:
        field: the velocity.
        context: what it is conditioned on, if anything.
        count: told of every evaluation, by phase.
        phase: of the evaluations to come.
        limit: how many of them there may be.
        trace: the divergence is integrated: ``exact``, ``mean`` over the probes, ``each`` of them;
            or is not, if None.
        probes: e (k, B, *event), if any is needed.
        regularize: names in ``REGULARIZERS`` of what else is integrated.
    """

    def __init__(
        self,
        field: Field,
        context: Tensor | None,
        *,
        count: Count,
        phase: str,
        limit: int,
        trace: str | None = None,
        probes: Tensor | None = None,
        regularize: tuple[str, ...] = (),
    ) -> None:
        self.field, self.context = field, context
        self.count, self.phase, self.limit = count, phase, limit
        self.trace, self.probes, self.regularize = trace, probes, regularize
        self.evaluations = 0
        self.step: Tensor | float | None = None
        self.recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=RECENT)

    def begin(self, phase: str) -> None:
        """Count a solve, and the evaluations from now on, under a phase."""
        self.phase, self.evaluations = phase, 0
        self.count(phase, 1, 0)

    def zeros(self, x: Tensor) -> list[Tensor]:
        """What the integrals start from: (k, B) for the divergence of each probe, else (B,)."""
        shapes: list[tuple[int, ...]] = [(len(x),)] * len(self.regularize)
        if self.trace is not None:
            n_probes = 1 if self.probes is None else len(self.probes)
            shapes.insert(0, (n_probes, len(x)) if self.trace == "each" else (len(x),))
        return [x.new_zeros(shape) for shape in shapes]

    def __call__(self, t: Tensor, x: Tensor, *, alone: bool = False) -> tuple[Tensor, ...]:
        """The velocity (B, *event), alone or with the integrands.

        Raises:
            OdeError: if there are more evaluations than allowed.
        """
        self.recent.append((t.detach(), x.detach()))
        # An exact trace takes another pass of the network than the probes of a penalty.
        passes = 2 if self.trace == "exact" and self.probes is not None and not alone else 1
        self.evaluations += passes
        self.count(self.phase, 0, passes)
        if self.evaluations > self.limit:
            raise self.failure(f"more than {self.limit} evaluations")
        return (self.field(t, x, self.context),) if alone else self.evaluate(t, x)

    def evaluate(self, t: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """The velocity (B, *event) and the integrands, not counted."""
        rows, integrands = None, []
        if self.probes is not None:
            velocity, rows = self.field.vjp(t, x, self.probes, self.context)
            if self.trace in ("mean", "each"):
                terms = quadratic(rows, self.probes)
                integrands.append(terms.mean(0) if self.trace == "mean" else terms)
        elif self.trace is None:
            velocity = self.field(t, x, self.context)
        if self.trace == "exact":
            velocity, divergence = self.field.divergence(t, x, None, self.context)
            integrands.append(divergence)
        return velocity, *integrands, *(REGULARIZERS[r](velocity, rows) for r in self.regularize)

    @torch.no_grad()
    def failure(self, what: str) -> OdeError:
        """What happened, and what the field gave there, in evaluations that are not counted."""
        if not self.recent:
            return OdeError(f"ODE: {what}; {ADVICE}")
        fastest = float("nan")
        for t, x in self.recent:
            if not x.isfinite().all():
                continue
            velocity = self.field(t, x, self.context)
            if not velocity.isfinite().all():
                kind = "NaN" if velocity.isnan().any() else "infinite"
                return OdeError(
                    f"ODE: {what}: the field is {kind} at t = {float(t):.6g}, at finite points "
                    f"(largest |x| {float(x.abs().max()):.3g}); look for log, sqrt or division in "
                    f"it, or {ADVICE}"
                )
            if not all(each.isfinite().all() for each in self.evaluate(t, x)[1:]):
                return OdeError(
                    f"ODE: {what}: the field is finite at t = {float(t):.6g}, but its divergence "
                    "or a penalty is not: look for a point where the field has no derivative, as "
                    f"of sqrt or |x| at 0; {ADVICE}"
                )
            fastest = float(torch.linalg.vector_norm(velocity.flatten(1), dim=1).max())
        t, x = self.recent[-1]
        where = f"at t = {float(t):.6g}"
        if self.step is not None:
            where += f", with steps of {abs(float(self.step)):.2g}"
        if not x.isfinite().all():
            where += ", where points are not finite"
        return OdeError(f"ODE: {what} {where}, largest |velocity| {fastest:.3g}; {ADVICE}")
