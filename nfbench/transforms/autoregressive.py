"""Masked autoregressive transform: each dimension is mapped given those before it."""

from torch import Tensor

from nfbench.nets.autoregress import autoregress
from nfbench.nets.made import MADE

from .base import Transform, check_width
from .elementwise import Elementwise


class Autoregressive(Transform):
    """``z_d = f(x_d; MADE(x_<d))``: one pass data -> noise, D dependent steps noise -> data.

    The Jacobian is triangular: log_det = sum_d log|f'(x_d)| (Papamakarios et al. 2017, equations
    4-5).
    """

    passes = 1

    def __init__(self, made: MADE, elementwise: Elementwise) -> None:
        super().__init__()
        self.made, self.elementwise = made, elementwise
        self.inverse_passes = made.features

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data (B, D) to noise in one pass."""
        z, log_det = self.elementwise(x, self.made(x, context))
        return z, log_det.sum(1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map noise (B, D) to data, one dimension after another."""
        check_width(z, self.made.features)
        return autoregress(self.made, self.solve, z, context)

    def solve(self, parameters: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The scalar inverse, in the order of arguments that generation wants."""
        return self.elementwise.inverse(noise, parameters)
