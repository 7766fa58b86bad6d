"""Continuous flows whose contract a test can afford, and fields whose flow is known."""

from torch import Tensor, nn
from transform_case import N_CONTEXT, Case

from nfbench.nets.field import Field
from nfbench.nets.mlp_field import MLPField
from nfbench.transforms.base import Transform
from nfbench.transforms.ode import ODE

TIGHT = 1e-11
SHORT = 0.2


class Linear(Field):
    """f = A x, all derivatives left to autograd: x(T) = exp(T A) x."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)
        self.n_dims = len(matrix)

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        return x @ self.matrix.t()


class Generic(Field):
    """The same velocity as another field, its derivatives left to autograd."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field, self.n_dims = field, field.n_dims

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.field(t, x, context)


def mlp(features: int, layer: str = "concatsquash", *, context: int = 0) -> Field:
    return MLPField(features, hidden=(8, 8), layer=layer, context_features=context)


def replay(features: int, *, context: int = 0) -> Transform:
    """Our own solver, accurate to rounding."""
    return ODE(
        mlp(features, context=context),
        T=SHORT,
        train_T=True,
        atol=TIGHT,
        rtol=TIGHT,
        gradient="replay",
        trace="exact",
    )


def adjoint() -> Transform:
    """torchdiffeq's, of a field whose derivatives autograd finds."""
    return ODE(
        Generic(MLPField(2, hidden=(6,), layer="hyper", activation="tanh")),
        T=SHORT,
        solver="dopri8",
        atol=TIGHT,
        rtol=TIGHT,
        trace="exact",
    )


SPREAD = 0.3

ODE_CASES: dict[type, list[Case]] = {
    ODE: [
        Case("one dimension", lambda: replay(1), (1,), disturbance=SPREAD),
        Case("replay", lambda: replay(3), (3,), disturbance=SPREAD),
        Case(
            "context",
            lambda: replay(2, context=N_CONTEXT),
            (2,),
            conditional=True,
            disturbance=SPREAD,
        ),
        Case("adjoint, any field", adjoint, (2,), disturbance=SPREAD),
    ],
}
