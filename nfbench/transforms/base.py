"""The contract every invertible map keeps."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

# From the strongest claim to the weakest; a composition is as weak as its weakest part.
LIKELIHOODS = ("exact", "estimate", "lower bound")
CALIBRATED = 8192  # rows at once: what the layers of a small net make of them fits a cache


def check_width(x: Tensor, features: int) -> None:
    """Refuse rows (B, D, ...) of another D, which broadcasting would hide where it is 1."""
    if x.dim() < 2 or x.shape[1] != features:
        raise ValueError(
            f"expected rows of {features} dimensions or channels, got a shape of {tuple(x.shape)}"
        )


class Transform(nn.Module, ABC):
    """An invertible map between data ``x`` and noise ``z``, with its Jacobian's log-determinant.

    ``forward``: data -> noise, ``log_det = log|det dz/dx|``; ``inverse``: noise -> data,
    ``log_det = log|det dx/dz|``. Both are in nats, summed over the event dimensions, shape (B,).
    First derivatives are there both ways. Second ones are refused through an ODE, reversible
    layers, and the inverse of an autoregressive transform of more than four dimensions.
    """

    likelihood: str = "exact"
    inverts_in_training: bool = True  # what takes statistics from the batch does not
    multiplies: bool = False  # matrices by data, which training must not round
    # Evaluations of networks that wait for each other, data -> noise and noise -> data.
    passes: int = 0
    inverse_passes: int = 0

    @abstractmethod
    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data (B, *event) to noise; return the noise and log|det dz/dx| (B,)."""

    @abstractmethod
    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map noise (B, *event) to data; return the data and log|det dx/dz| (B,)."""

    def generate(
        self, points: Tensor, context: Tensor | None = None, *, backwards: bool = True
    ) -> Tensor:
        """The data that noise becomes, or the noise of data unless ``backwards``; no log_det.

        A transform whose log_det is more work than its points leaves that work out here.
        """
        way = self.inverse if backwards else self.forward
        return way(points, context)[0]

    def steps(
        self, points: Tensor, context: Tensor | None = None, *, backwards: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """The points after each step noise -> data, behind the name of what moved them.

        The last are those of ``inverse``. Data -> noise unless ``backwards``, up to the image of
        ``forward``. A transform of several maps yields after each of them.
        """
        yield type(self).__name__, self.generate(points, context, backwards=backwards)

    def retrace(
        self, z: Tensor, context: Tensor | None = None
    ) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """The data that ``z`` came from, as leaves of a graph, and ``forward`` of them.

        ``join`` makes data of the leaves. A transform that shares work between its inverse and its
        forward does it here.
        """
        with torch.no_grad():
            x, _ = self.inverse(z, context)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return (x,), *self(x, context)

    def join(self, *leaves: Tensor) -> Tensor:
        """The data (B, *event) that are the leaves of ``retrace``."""
        return leaves[0]

    @property
    def needs_calibration(self) -> bool:
        """Whether some statistic is set from data before the transform is evaluated."""
        return any(
            child.needs_calibration for child in self.children() if isinstance(child, Transform)
        )

    @torch.no_grad()
    def calibrate(
        self, x: Tensor, context: Tensor | None = None, batch_size: int = CALIBRATED
    ) -> Tensor:
        """Set data-dependent statistics from the training set ``x`` (N, *event); return its image.

        A transform without such statistics only passes the data on, ``batch_size`` rows at a time.
        """
        contexts = [None] if context is None else context.split(batch_size)
        batches = x.split(batch_size)
        pairs = zip(batches, contexts * (len(batches) if context is None else 1), strict=True)
        return torch.cat([self.generate(rows, given, backwards=False) for rows, given in pairs])


class Compose(Transform):
    """Apply transforms in order, data -> noise: ``z = f_n(... f_1(x))``; log-determinants add."""

    def __init__(self, transforms: Iterable[Transform]) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(transforms)
        self.likelihood = weakest(part.likelihood for part in self.parts)
        self.passes = sum(part.passes for part in self.parts)
        self.inverse_passes = sum(part.inverse_passes for part in self.parts)

    @property
    def parts(self) -> list[Transform]:
        """The transforms in order, data -> noise."""
        return [part for part in self.transforms if isinstance(part, Transform)]

    @property
    def needs_calibration(self) -> bool:
        """Whether any part needs statistics from data."""
        return any(part.needs_calibration for part in self.parts)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data (B, *event) to noise; return the noise and log|det dz/dx| (B,)."""
        total = None
        for transform in self.transforms:
            x, log_det = transform(x, context)
            total = log_det if total is None else total + log_det
        return x, no_volume_change(x) if total is None else total

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map noise (B, *event) to data; return the data and log|det dx/dz| (B,)."""
        total = None
        for transform in reversed(self.parts):
            z, log_det = transform.inverse(z, context)
            total = log_det if total is None else total + log_det
        return z, no_volume_change(z) if total is None else total

    def generate(
        self, points: Tensor, context: Tensor | None = None, *, backwards: bool = True
    ) -> Tensor:
        """The points after all parts, in the order of the direction."""
        for part in reversed(self.parts) if backwards else self.parts:
            points = part.generate(points, context, backwards=backwards)
        return points

    def steps(
        self, points: Tensor, context: Tensor | None = None, *, backwards: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """The points after each step of each part; no step if there are no parts."""
        for part in reversed(self.parts) if backwards else self.parts:
            for name, moved in part.steps(points, context, backwards=backwards):
                yield name, moved
                points = moved

    @torch.no_grad()
    def calibrate(
        self, x: Tensor, context: Tensor | None = None, batch_size: int = CALIBRATED
    ) -> Tensor:
        """Calibrate each part on the image of the training set under the parts before it."""
        for part in self.parts:
            x = part.calibrate(x, context, batch_size)
        return x


def weakest(likelihoods: Iterable[str]) -> str:
    """The weakest claim that parts make about their likelihood; exact if there are none."""
    return max(likelihoods, key=LIKELIHOODS.index, default=LIKELIHOODS[0])


def no_volume_change(x: Tensor) -> Tensor:
    """Zero log-determinants (B,) for a map that keeps volume."""
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    return torch.zeros(x.shape[0], dtype=dtype, device=x.device)
