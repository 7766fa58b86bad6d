"""Continuous flows: an ordinary differential equation moves the points."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nfbench.nets.field import Field

from .base import Transform
from .dopri5 import Replay, integrate
from .dynamics import PHASES, REGULARIZERS, Dynamics
from .odeint import ADAPTIVE, FIXED, Solve, check_solver, interval, solve
from .tolerance import NORMS, Tolerance, check_positive, check_used

# Solves and evaluations of the right-hand side, by phase.
Nfe = dict[str, tuple[int, int]]
CHOICES = {
    "gradient": ("adjoint", "autograd", "replay"),
    "trace": ("hutchinson", "exact"),
    "noise": ("rademacher", "gaussian"),
    "solver": ADAPTIVE + FIXED,
    "norm": tuple(NORMS),
}


class ODE(Transform):
    """``z = x(T)`` of ``dx/dt = f(t, x)`` from ``x(0) = x``; sampling goes back from T to 0.

    log_det is the integral of the divergence of f (Chen et al. 2018, equation 8), exact or by
    Hutchinson's estimate with noise that is drawn once for each solve (Grathwohl et al. 2018,
    section 3.1). In training the trace is as told; in evaluation it is exact up to ``exact_dims``
    dimensions. All rows of a batch take the same steps.

    Evaluations of the right-hand side are counted in ``nfe``. In training, ``penalties`` holds the
    batch means of the integrals that ``regularize`` names, of the last solve with a log_det: of
    |f|^2 (``kinetic``), of the estimate |e^T df/dx|^2 of |df/dx|^2 (``jacobian``; Finlay et al.
    2020, equation 9), of |f| (``path``), summed over the dimensions. In evaluation, ``log_det_se``
    holds the standard error of the last estimate over several probes, (B,).

    Args:
        field: the velocity f.
        T: the time at the noise; trained if ``train_T``, by its square root.
        solver: torchdiffeq's name of one; the fixed ones take steps of ``step_size``.
        atol: absolute tolerance of a step.
        rtol: relative tolerance of a step.
        norm: of a step's error over rows and dimensions, ``rms`` (torchdiffeq's: of the point and
            of each integral, the largest) or ``max``, which keeps every row to the tolerance.
            An adjoint solve has it for the point and its adjoint, but the rms of each parameter's
            gradient, which is a sum over rows and acts back on none of them.
        gradient: ``adjoint`` solves the adjoint equation backwards (Chen et al. 2018), with
            tolerances ``adjoint_atol`` and ``adjoint_rtol`` if they are given, ``autograd`` keeps
            the graph of all steps; both are torchdiffeq's. ``replay`` is our own dopri5, whose
            steps are taken again backwards, one at a time.
        trace: ``hutchinson`` or ``exact``.
        noise: of the estimate, ``rademacher`` or ``gaussian``.
        probes: how many draws of it.
        exact_dims: up to which the evaluation takes the exact trace.
        max_evaluations: of the right-hand side in a solve, before it counts as failed.
        regularize: names of penalties.

    Raises:
        ValueError: if a choice is none of those, or a number out of range.
        OdeError: when called, if the equation cannot be integrated.
    """

    multiplies = True
    sqrt_T: Tensor  # noqa: N815  (as in the equations)

    def __init__(
        self,
        field: Field,
        *,
        T: float = 1.0,  # noqa: N803
        train_T: bool = False,  # noqa: N803
        solver: str = "dopri5",
        atol: float = 1e-5,
        rtol: float = 1e-5,
        norm: str = "rms",
        step_size: float | None = None,
        gradient: str = "adjoint",
        adjoint_atol: float | None = None,
        adjoint_rtol: float | None = None,
        trace: str = "hutchinson",
        noise: str = "rademacher",
        probes: int = 1,
        exact_dims: int = 100,
        max_evaluations: int = 10_000,
        regularize: Sequence[str] = (),
    ) -> None:
        super().__init__()
        check_choices(gradient=gradient, trace=trace, noise=noise, solver=solver, norm=norm)
        check_positive(T=T, atol=atol, rtol=rtol, probes=probes, max_evaluations=max_evaluations)
        adjoint = {"adjoint_atol": adjoint_atol, "adjoint_rtol": adjoint_rtol}
        check_used(gradient, norm, step_size=step_size, **adjoint)
        check_solver(solver, gradient, step_size)
        unknown = set(regularize) - set(REGULARIZERS)
        if unknown:
            known = ", ".join(REGULARIZERS)
            raise ValueError(f"regularize: expected some of {known}; got {sorted(unknown)}")
        self.field = field
        root = torch.tensor(T).sqrt()
        if train_T:
            self.sqrt_T = nn.Parameter(root)
        else:
            self.register_buffer("sqrt_T", root)
        self.solver, self.step_size, self.gradient = solver, step_size, gradient
        self.tolerance = Tolerance(atol, rtol, norm)
        self.adjoint_tolerance = Tolerance(
            atol if adjoint_atol is None else adjoint_atol,
            rtol if adjoint_rtol is None else adjoint_rtol,
            norm,
        )
        self.trace, self.noise, self.probes = trace, noise, probes
        self.max_evaluations, self.regularize = max_evaluations, tuple(regularize)
        is_small = field.n_dims is not None and field.n_dims <= exact_dims
        self.likelihood = "exact" if trace == "exact" or is_small else "estimate"
        self.nfe = no_evaluations()
        self.penalties: dict[str, Tensor] = {}
        self.log_det_se: Tensor | None = None
        self.phase: str | None = None  # what evaluations count as, whatever the mode

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data (B, *event) to noise; return the noise and log|det dz/dx| (B,)."""
        return self.transport(x, context, backwards=False)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map noise (B, *event) to data; return the data and log|det dx/dz| (B,)."""
        return self.transport(z, context, backwards=True)

    def generate(
        self, points: Tensor, context: Tensor | None = None, *, backwards: bool = True
    ) -> Tensor:
        """Map noise (B, *event) to data, or data to noise; no divergence is evaluated."""
        dynamics = self.dynamics(context, self.phase or "sampling")
        return self.integrate(dynamics, points, backwards)[0]

    def retrace(
        self, z: Tensor, context: Tensor | None = None
    ) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """The data that ``z`` came from, as leaves of a graph, and ``forward`` of them.

        Raises:
            ValueError: if there are penalties, whose gradient would be lost.
        """
        if self.regularize:
            raise ValueError("regularize: expected none inside of Reversible, which drops them")
        self.phase = "backward"
        try:
            with torch.no_grad():
                x = self.generate(z, context)
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                return (x,), *self(x, context)
        finally:
            self.phase = None

    def transport(
        self, points: Tensor, context: Tensor | None, *, backwards: bool
    ) -> tuple[Tensor, Tensor]:
        """Points at the other end, and the log-determinants of how they got there."""
        exact = self.trace == "exact" if self.training else self.likelihood == "exact"
        regularize = self.regularize if self.training else ()
        several = not (self.training or exact) and self.probes > 1
        trace = "exact" if exact else "each" if several else "mean"
        needs_probes = not exact or "jacobian" in regularize
        dynamics = self.dynamics(
            context,
            self.phase or ("forward" if self.training else "evaluation"),
            trace=trace,
            probes=self.draw(points) if needs_probes else None,
            regularize=regularize,
        )
        self.penalties = {}  # those of the last solve hold its graph
        moved, log_det, *integrals = self.integrate(dynamics, points, backwards)
        dynamics.recent.clear()
        self.penalties = {
            name: -integral.mean() if backwards else integral.mean()
            for name, integral in zip(regularize, integrals, strict=True)
        }
        self.log_det_se = None
        if several:
            self.log_det_se = log_det.detach().std(0) / self.probes**0.5
            log_det = log_det.mean(0)
        return moved, log_det

    def dynamics(self, context: Tensor | None, phase: str, **integrands: Any) -> Dynamics:
        """The right-hand side of a solve."""
        return Dynamics(
            self.field,
            context,
            count=self.count,
            phase=phase,
            limit=self.max_evaluations,
            **integrands,
        )

    def draw(self, points: Tensor) -> Tensor:
        """Noise of mean 0 and covariance I, (probes, B, *event)."""
        noise = points.new_empty(self.probes, *points.shape)
        if self.noise == "gaussian":
            return noise.normal_()
        return noise.bernoulli_(0.5).mul_(2).sub_(1)

    def integrate(self, dynamics: Dynamics, points: Tensor, backwards: bool) -> tuple[Tensor, ...]:
        """The points and the integrals at the other end of the time."""
        time = self.sqrt_T.square()
        if points.is_meta or not points.numel():  # no steps to choose: their shapes
            velocity, *integrands = dynamics.evaluate(time.to(points.dtype), points)
            return points + velocity, *integrands
        dynamics.begin(dynamics.phase)
        parameters = [p for p in self.field.parameters() if p.requires_grad]
        given = [time, points, dynamics.context, *parameters]
        in_graph = torch.is_grad_enabled() and any(
            tensor is not None and tensor.requires_grad for tensor in given
        )
        if self.gradient == "replay":
            if in_graph:
                return Replay.apply(dynamics, self.tolerance, backwards, *given)
            end = time.item()
            span = (end, 0.0) if backwards else (0.0, end)
            return integrate(dynamics, points, span, self.tolerance)
        adjoint = self.gradient == "adjoint" and in_graph
        settings = self.settings(points.dtype, adjoint)
        if in_graph:
            return Solve.apply(dynamics, settings, adjoint, backwards, *given)
        with torch.no_grad():
            return solve(dynamics, points, interval(time, backwards), settings)

    def settings(self, dtype: torch.dtype, adjoint: bool) -> dict[str, Any]:
        """Keywords of torchdiffeq's ``odeint``, or of its ``odeint_adjoint``."""
        found: dict[str, Any] = {
            "method": self.solver,
            "atol": self.tolerance.atol,
            "rtol": self.tolerance.relative(dtype),
            "options": {} if self.step_size is None else {"step_size": self.step_size},
        }
        if self.tolerance.norm != "rms":  # torchdiffeq's own
            found["options"]["norm"] = self.tolerance.measure
        if adjoint:
            found["adjoint_atol"] = self.adjoint_tolerance.atol
            found["adjoint_rtol"] = self.adjoint_tolerance.relative(dtype)
        return found

    def count(self, phase: str, solves: int, evaluations: int) -> None:
        """Add to the counts of a phase."""
        before = self.nfe[phase]
        self.nfe[phase] = before[0] + solves, before[1] + evaluations

    def pop_nfe(self) -> Nfe:
        """Solves and evaluations by phase since the last call."""
        found, self.nfe = self.nfe, no_evaluations()
        return found

    def __getstate__(self) -> dict[str, Any]:
        """What is copied: not the graph of the last penalties."""
        return {**self.__dict__, "penalties": {}, "log_det_se": None}


def no_evaluations() -> Nfe:
    """No solves, no evaluations."""
    return dict.fromkeys(PHASES, (0, 0))


def count_nfe(model: nn.Module, *, reset: bool = False) -> Nfe:
    """Solves and evaluations of the right-hand side, by phase, summed over a model's ODEs.

    ``reset`` sets their counts to zero.
    """
    total = no_evaluations()
    for part in model.modules():
        if isinstance(part, ODE):
            counts = part.pop_nfe() if reset else part.nfe
            for phase, (solves, evaluations) in counts.items():
                total[phase] = total[phase][0] + solves, total[phase][1] + evaluations
    return total


def check_choices(**names: str) -> None:
    """Refuse a name that is no choice."""
    for option, name in names.items():
        if name not in CHOICES[option]:
            expected = ", ".join(CHOICES[option])
            raise ValueError(f"{option}: expected one of {expected}; got {name!r}")
