"""A transform turned round."""

from collections.abc import Iterator

from torch import Tensor

from .base import Transform
from .statistics import takes_statistics


class Inverse(Transform):
    """The inverse of a transform: density and sampling change places.

    An inverse autoregressive flow (Kingma et al. 2016) is ``Inverse`` of a masked autoregressive
    one.

    Raises:
        ValueError: if the transform takes statistics from data, which it would see at its noise
            side.
    """

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        for module in transform.modules():
            if takes_statistics(module):
                raise ValueError(
                    "Inverse: expected a transform without data statistics, got one with "
                    f"{type(module).__name__}; put it beside it"
                )
        self.transform = transform
        self.likelihood = transform.likelihood
        self.passes, self.inverse_passes = transform.inverse_passes, transform.passes

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data to noise by the wrapped inverse; return the noise and log|det dz/dx| (B,)."""
        return self.transform.inverse(x, context)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map noise to data by the wrapped forward; return the data and log|det dx/dz| (B,)."""
        x, log_det = self.transform(z, context)
        return x, log_det

    def generate(
        self, points: Tensor, context: Tensor | None = None, *, backwards: bool = True
    ) -> Tensor:
        """The points of the wrapped transform in the other direction."""
        return self.transform.generate(points, context, backwards=not backwards)

    def steps(
        self, points: Tensor, context: Tensor | None = None, *, backwards: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """The points after each step of the wrapped transform in the other direction."""
        return self.transform.steps(points, context, backwards=not backwards)
