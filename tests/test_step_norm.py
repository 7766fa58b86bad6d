"""The norm of a step's error: what each row is allowed, and which rows it is shared with."""

import math

import pytest
import torch
from ode_cases import Generic
from oracles import randomize
from torch import Tensor
from torchdiffeq._impl.dopri5 import _DORMAND_PRINCE_SHAMPINE_TABLEAU as TABLEAU

from nfbench.nets.field import Field
from nfbench.nets.mlp_field import MLPField
from nfbench.transforms.dopri5 import Solver, Step
from nfbench.transforms.ode import ODE
from nfbench.transforms.tolerance import Tolerance

pytestmark = pytest.mark.usefixtures("float64")

GRADIENTS = pytest.mark.parametrize("gradient", ["adjoint", "autograd", "replay"])
N_EASY, FAST, SLOW, T = 400, 12.0, 0.1, 1.5
TOLERANCE = 1e-6
OPTIONS = {"T": T, "atol": TOLERANCE, "rtol": TOLERANCE, "trace": "exact"}


class Swing(Field):
    """dv/dt = v w cos(w t) of points (w, v): v(T) = v exp(sin w T), log_det = sin w T."""

    n_dims = 2

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        w, v = x.unbind(1)
        return torch.stack([torch.zeros_like(w), v * w * torch.cos(w * t)], dim=1)


class Timed(Generic):
    """A field that notes the times at which it is evaluated."""

    def __init__(self, field: Field) -> None:
        super().__init__(field)
        self.times: list[float] = []

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        self.times.append(float(t))
        return super().forward(t, x, context)


def rows(n_easy: int) -> Tensor:
    """One row that swings fast, and easy ones."""
    return torch.cat([torch.tensor([[FAST, 1.0]]), torch.tensor([[SLOW, 1.0]]).expand(n_easy, 2)])


def mlp() -> MLPField:
    field = MLPField(2, hidden=(6, 5))
    randomize(field, 1.5)
    return field


def local_errors(field: Field, steps: list[Step], integral: Tensor) -> Tensor:
    """Estimated errors of steps as parts of what a component may have, with torchdiffeq's numbers.

    They are of (points, log-determinants): (steps, B, D + 1).
    """
    found = []
    for t, h, x, _ in steps:
        slopes: list[Tensor] = []
        before = torch.cat([x, integral.unsqueeze(1)], dim=1)
        for time, weights in zip([0.0, *TABLEAU.alpha], [[], *TABLEAU.beta], strict=True):
            point = before + h * sum(float(w) * s for w, s in zip(weights, slopes, strict=False))
            velocity, divergence = field.divergence(
                x.new_tensor(t + float(time) * h), point[:, :2]
            )
            slopes.append(torch.cat([velocity, divergence.unsqueeze(1)], dim=1))
        error = h * sum(float(w) * s for w, s in zip(TABLEAU.c_error, slopes, strict=True))
        after = before + h * sum(float(w) * s for w, s in zip(TABLEAU.c_sol, slopes, strict=True))
        integral = after[:, 2]
        allowed = TOLERANCE * (1 + torch.maximum(before.abs(), after.abs()))
        found.append(error.abs() / allowed)
    return torch.stack(found).detach()


@torch.no_grad()
@pytest.mark.parametrize("backwards", [False, True])
def test_max_keeps_every_component_of_every_step_to_the_tolerance(backwards: bool) -> None:
    x, span = torch.cat([rows(50), torch.randn(20, 2)]), (T, 0.0) if backwards else (0.0, T)
    worst = {}
    for norm in ("rms", "max"):
        ode = ODE(Swing(), norm=norm, **OPTIONS)
        dynamics, steps = ode.dynamics(None, "evaluation", trace="exact"), []
        Solver(dynamics, x, span, Tolerance(TOLERANCE, TOLERANCE, norm)).run(steps)
        worst[norm] = local_errors(ode.field, steps, torch.zeros(len(x))).max().item()
        assert sum(step.h for step in steps) == pytest.approx(span[1] - span[0])
    assert worst["max"] <= 1 + 1e-6
    assert worst["max"] > 0.1
    assert worst["rms"] > 3


@GRADIENTS
def test_max_takes_the_steps_of_the_stiffest_row(gradient: str) -> None:
    found: dict[tuple[str, int], tuple[int, Tensor, Tensor]] = {}
    for norm in ("rms", "max"):
        for n_easy in (0, N_EASY):
            ode = ODE(Swing(), gradient=gradient, norm=norm, **OPTIONS).eval()
            z, log_det = ode(rows(n_easy))
            found[norm, n_easy] = ode.nfe["evaluation"][1], z[0], log_det[0]
    (many, *together), (few, *alone) = found["max", N_EASY], found["max", 0]
    assert many == few
    for mine, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-12)
    assert found["rms", N_EASY][0] < found["rms", 0][0] <= few
    closed = math.sin(FAST * T)
    errors = {norm: abs(found[norm, N_EASY][2].item() - closed) for norm in ("rms", "max")}
    assert errors["max"] < 10 * TOLERANCE
    assert errors["rms"] > 3 * errors["max"]


@pytest.mark.parametrize("gradient", ["adjoint", "replay"])
def test_so_does_the_way_back(gradient: str) -> None:
    """The gradient of a row does not change with the rows beside it either."""
    found: dict[tuple[str, int], tuple[int, Tensor]] = {}
    for norm in ("rms", "max"):
        for n_easy in (0, N_EASY):
            ode = ODE(Swing(), gradient=gradient, norm=norm, **OPTIONS)
            x = rows(n_easy).requires_grad_()
            z, log_det = ode(x)
            (z.sum() + log_det.sum()).backward()
            found[norm, n_easy] = ode.nfe["backward"][1], x.grad[0]
    assert found["max", N_EASY][0] == found["max", 0][0] > 0
    assert found["rms", N_EASY][0] != found["rms", 0][0]
    together, alone = (found["max", n][1] for n in (N_EASY, 0))
    torch.testing.assert_close(together, alone, rtol=TOLERANCE, atol=0)
    swing = math.exp(math.sin(FAST * T))
    turn = T * math.cos(FAST * T)
    exact = torch.tensor([1 + swing * turn + turn, swing])
    torch.testing.assert_close(together, exact, rtol=1e-4, atol=0)


@pytest.mark.parametrize("norm", ["rms", "max"])
@pytest.mark.parametrize("backwards", [False, True])
def test_our_solver_and_torchdiffeq_take_the_same_steps(norm: str, backwards: bool) -> None:
    field, x, times = mlp(), torch.randn(20, 2), []
    for gradient in ("adjoint", "replay"):
        ode = ODE(Timed(field), gradient=gradient, norm=norm, **OPTIONS).eval()
        (ode.inverse if backwards else ode)(x)
        times.append(ode.field.times)
    assert len(times[0]) == len(times[1]) > 40
    assert times[1] == pytest.approx(times[0], rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("solver", ["dopri8", "bosh3", "fehlberg2", "adaptive_heun"])
def test_every_adaptive_solver_knows_the_norm(solver: str) -> None:
    options = OPTIONS | {"atol": 1e-4, "rtol": 1e-4}
    counts = {}
    for norm in ("rms", "max"):
        ode = ODE(Swing(), solver=solver, norm=norm, **options).eval()
        ode(rows(N_EASY))
        counts[norm] = ode.nfe["evaluation"][1]
    assert counts["max"] > counts["rms"]
