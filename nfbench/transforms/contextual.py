"""A transform conditioned on what a network makes of the context."""

from collections.abc import Iterator

from torch import Tensor, nn

from .base import Transform


class Contextual(Transform):
    """``transform`` given ``net(context)``, which is computed once for each call.

    So a map that evaluates its own networks many times, as an ODE does, has no part of them that
    depends on the context alone.

    Raises:
        ValueError: if the transform takes statistics of the whole training set.
    """

    def __init__(self, transform: Transform, net: nn.Module) -> None:
        super().__init__()
        if transform.needs_calibration:
            raise ValueError(
                "Contextual: expected a transform without data statistics; put batch "
                "norm beside it"
            )
        self.transform, self.net = transform, net
        self.likelihood = transform.likelihood
        self.inverts_in_training = transform.inverts_in_training
        self.passes, self.inverse_passes = transform.passes, transform.inverse_passes

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data (B, *event) to noise; return the noise and log|det dz/dx| (B,)."""
        z, log_det = self.transform(x, self.net(context))
        return z, log_det

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map noise (B, *event) to data; return the data and log|det dx/dz| (B,)."""
        return self.transform.inverse(z, self.net(context))

    def generate(
        self, points: Tensor, context: Tensor | None = None, *, backwards: bool = True
    ) -> Tensor:
        """The points of the transform."""
        return self.transform.generate(points, self.net(context), backwards=backwards)

    def steps(
        self, points: Tensor, context: Tensor | None = None, *, backwards: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """The points after each step of the transform."""
        return self.transform.steps(points, self.net(context), backwards=backwards)
