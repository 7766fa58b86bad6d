"""A transform of vectors, applied to the channels at every pixel."""

import torch
from torch import Tensor

from .base import CALIBRATED, Transform


class PerPixel(Transform):
    """``z_ij = f(x_ij)`` for the channels x_ij at each pixel of images (B, C, H, W).

    log_det is the sum of f's over the pixels. With f a permutation and triangular factors it is
    the 1x1 convolution of Durkan et al. (2019).
    """

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform
        self.likelihood = transform.likelihood
        self.passes, self.inverse_passes = transform.passes, transform.inverse_passes

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map images to noise; no context goes to f."""
        rows, log_det = self.transform(pixels(x))
        return images(rows, x), per_image(log_det, x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map noise to images."""
        rows, log_det = self.transform.inverse(pixels(z))
        return images(rows, z), per_image(log_det, z)

    @torch.no_grad()
    def calibrate(
        self, x: Tensor, context: Tensor | None = None, batch_size: int = CALIBRATED
    ) -> Tensor:
        """Calibrate f on the channels of all pixels."""
        return images(self.transform.calibrate(pixels(x), None, batch_size), x)


def pixels(x: Tensor) -> Tensor:
    """Channels of each pixel, (B, C, H, W) -> (B H W, C); a view if they are last in memory."""
    return x.movedim(1, -1).flatten(0, -2)


def images(rows: Tensor, like: Tensor) -> Tensor:
    """Undo ``pixels``."""
    n, c, h, w = like.shape
    return rows.view(n, h, w, c).movedim(-1, 1)


def per_image(log_det: Tensor, like: Tensor) -> Tensor:
    """The sum of a log-determinant (B H W,) over the pixels of each image, (B,)."""
    return log_det.view(len(like), like.shape[2:].numel()).sum(1)
