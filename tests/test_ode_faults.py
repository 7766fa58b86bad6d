"""What goes wrong beside the velocity: divergences, infinite data, settings; and what is kept."""

import gc
import math
import weakref
from typing import Any

import pytest
import torch
from ode_cases import Generic
from torch import Tensor

from nfbench.errors import OdeError
from nfbench.flows.ffjord import ffjord_image
from nfbench.nets.field import Field
from nfbench.nets.mlp_field import MLPField
from nfbench.objectives.flow_matching import flow_matching, ot_flow_matching
from nfbench.transforms.ode import ODE

B, D = 5, 2


class Kink(Field):
    """f = 1 + 0 sqrt|x|: finite everywhere, without a derivative at 0."""

    n_dims = D

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The velocity (B, D)."""
        return 1 + 0 * x.abs().sqrt()


class Counted(MLPField):
    """A field that counts the passes of its network."""

    passes = 0

    def vjp(self, *arguments: Any) -> Any:
        """Count, then the field's."""
        type(self).passes += 1
        return super().vjp(*arguments)

    def divergence(self, *arguments: Any) -> Any:
        """Count, then the field's."""
        type(self).passes += 1
        return super().divergence(*arguments)


@pytest.mark.parametrize(
    "options",
    [
        {"gradient": "replay"},
        {"gradient": "adjoint"},
        {"gradient": "autograd", "solver": "rk4", "step_size": 0.5},
    ],
    ids=lambda options: str(options["gradient"]),
)
def test_a_divergence_that_is_none_is_told_though_the_points_are_finite(
    options: dict[str, Any],
) -> None:
    with pytest.raises(OdeError, match="its divergence or a penalty is not: look for a point"):
        ODE(Kink(), trace="exact", **options)(torch.zeros(B, D))


@pytest.mark.parametrize("norm", ["rms", "max"])
def test_infinite_points_are_refused_at_once(norm: str) -> None:
    ode = ODE(MLPField(D, hidden=(4,)), gradient="replay", norm=norm)
    x = torch.zeros(B, D)
    x[2, 0] = math.inf
    with pytest.raises(OdeError, match="where points are not finite"):
        ode(x)
    assert ode.nfe["forward"][1] < 10


def test_both_passes_of_an_exact_trace_with_probes_are_counted() -> None:
    ode = ODE(
        Counted(D, hidden=(4,)), trace="exact", regularize=["jacobian"], solver="rk4",
        step_size=0.5, gradient="autograd",
    )  # fmt: skip
    Counted.passes = 0
    ode(torch.randn(B, D))
    assert Counted.passes == ode.nfe["forward"][1] == 2 * 8


@pytest.mark.parametrize("gradient", ["replay", "adjoint", "autograd"])
def test_penalties_hold_no_graph_of_the_solve_before(gradient: str) -> None:
    ode = ODE(Generic(MLPField(D, hidden=(4,))), gradient=gradient, regularize=["kinetic"])
    z, log_det = ode(torch.randn(B, D))
    (z.sum() + log_det.sum() + ode.penalties["kinetic"]).backward()
    node = weakref.ref(z.grad_fn)
    del z, log_det
    seen: list[bool] = []
    integrate = ode.integrate

    def watched(*arguments: Any) -> Any:
        gc.collect()
        seen.append(node() is None)
        return integrate(*arguments)

    ode.integrate = watched  # type: ignore[method-assign]
    ode(torch.randn(B, D))
    assert seen == [True]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"adjoint_atol": -1.0}, "adjoint_atol: expected a positive number, got -1.0"),
        ({"adjoint_rtol": math.nan}, "adjoint_rtol: expected a positive number, got nan"),
        ({"T": math.inf}, "T: expected a positive number, got inf"),
        ({"adjoint_rtol": 1e-3, "gradient": "replay"}, "adjoint_rtol: expected null, as gradient"),
        (
            {"solver": "rk4", "step_size": 0.5, "gradient": "autograd", "norm": "max"},
            "norm: expected rms, as steps of a size",
        ),
        (
            {"solver": "rk4", "step_size": -0.5, "gradient": "autograd"},
            "step_size: expected a positive number, got -0.5",
        ),
    ],
)
def test_numbers_that_make_no_sense_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ODE(MLPField(D, hidden=(4,)), **settings)


@pytest.mark.parametrize("objective", [flow_matching, ot_flow_matching])
def test_images_of_one_scale_are_matched(objective: Any) -> None:
    flow = ffjord_image([1, 4, 4], scales=1, blocks=1, hidden=[4], train_T=False)
    x = torch.randn(B, 1, 4, 4)
    loss = objective(flow, x)
    loss.backward()
    assert loss > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in flow.parameters())
    several = ffjord_image([1, 8, 8], scales=2, blocks=1, hidden=[4], train_T=False)
    with pytest.raises(ValueError, match="expected a flow with exactly one ODE"):
        objective(several, torch.randn(B, 1, 8, 8))
