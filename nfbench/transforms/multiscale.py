"""Images in several scales: after each but the last, half of the channels are done."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .base import CALIBRATED, Transform, weakest
from .elementwise import Affine


class Split(nn.Module):
    """The second half of the channels leaves, as ``(x_2 - m) exp(s)`` with (m, s) = prior(x_1).

    Without a ``prior`` it leaves as it is (Dinh et al. 2016, section 3.6); a prior stands for a
    Gaussian of mean m and log-variance -2 s (authors' code of Glow). log_det = sum s.
    """

    def __init__(self, prior: nn.Module | None = None) -> None:
        super().__init__()
        self.prior, self.normal = prior, Affine()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """What stays and what leaves of (B, C, H, W), and the log-determinant (B,) if any."""
        kept, out = x.chunk(2, dim=1)
        if self.prior is None:
            return kept, out, None
        out, log_det = self.normal(out, self.prior(kept))
        return kept, out, log_det.flatten(1).sum(1)

    def inverse(self, kept: Tensor, out: Tensor) -> tuple[Tensor, Tensor | None]:
        """Put the two halves together again; the log-determinant (B,) if any."""
        log_dets = None
        if self.prior is not None:
            out, log_det = self.normal.inverse(out, self.prior(kept))
            log_dets = log_det.flatten(1).sum(1)
        return torch.cat([kept, out], dim=1), log_dets


class MultiScale(Transform):
    """Images (B, C, H, W) -> noise (B, D): levels with a ``Split`` after each but the last.

    The noise that leaves after each level comes in order, the last level's at the end (Dinh et al.
    2016, section 3.6). Images are held channels last in memory, which convolutions like.

    Args:
        levels: from the images (B, C, H, W) of a level to images of ``shapes``.
        shapes: (C, H, W) of the images that each level gives.
        splits: what leaves after each level but the last.
    """

    def __init__(
        self,
        levels: Sequence[Transform],
        shapes: Sequence[tuple[int, int, int]],
        splits: Sequence[Split],
    ) -> None:
        super().__init__()
        if not levels:
            raise ValueError("levels: expected at least 1, got 0")
        if not len(levels) == len(shapes) == len(splits) + 1:
            raise ValueError(
                "MultiScale: expected as many shapes as levels and one split less, got "
                f"{len(levels)} levels, {len(shapes)} shapes, {len(splits)} splits"
            )
        self.levels, self.splits = nn.ModuleList(levels), nn.ModuleList(splits)
        self.likelihood = weakest(level.likelihood for level in levels)
        self.passes = sum(level.passes for level in levels)
        # What was split off a level waits for its prior before the level can be undone.
        n_priors = sum(split.prior is not None for split in splits)
        self.inverse_passes = sum(level.inverse_passes for level in levels) + n_priors
        halves = [(c // 2, h, w) for c, h, w in shapes[:-1]]
        self.shapes = [*halves, shapes[-1]]
        self.sizes = [c * h * w for c, h, w in self.shapes]

    @property
    def needs_calibration(self) -> bool:
        """Whether any level needs statistics from data."""
        return any(isinstance(x, Transform) and x.needs_calibration for x in self.levels)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map images (B, C, H, W) to noise (B, D)."""
        x = x.contiguous(memory_format=torch.channels_last)
        noise, log_dets = [], []
        for level, split in zip(self.levels, [*self.splits, None], strict=True):
            x, log_det = level(x, context)
            log_dets.append(log_det)
            if split is not None:
                x, out, log_det = split(x)
                noise.append(out.flatten(1))
                log_dets += [] if log_det is None else [log_det]
        return torch.cat([*noise, x.flatten(1)], dim=1), torch.stack(log_dets).sum(0)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map noise (B, D) to images (B, C, H, W)."""
        *noise, last = self.unflatten(z)
        x, log_det = self.levels[-1].inverse(last, context)  # type: ignore[operator]
        log_dets = [log_det]
        rest = zip(self.levels[:-1], self.splits, noise, strict=True)
        for level, split, out in reversed(list(rest)):
            x, log_det = split.inverse(x, out)  # type: ignore[operator]
            log_dets += [] if log_det is None else [log_det]
            x, log_det = level.inverse(x, context)  # type: ignore[operator]
            log_dets.append(log_det)
        return x, torch.stack(log_dets).sum(0)

    @torch.no_grad()
    def calibrate(
        self, x: Tensor, context: Tensor | None = None, batch_size: int = CALIBRATED
    ) -> Tensor:
        """Calibrate each level on what the levels before it have left of the training set."""
        noise = []
        for level, split in zip(self.levels, [*self.splits, None], strict=True):
            x = level.calibrate(x, context, batch_size)  # type: ignore[operator]
            if split is not None:
                x, out, _ = split(x)
                noise.append(out.flatten(1))
        return torch.cat([*noise, x.flatten(1)], dim=1)

    def generate(
        self, points: Tensor, context: Tensor | None = None, *, backwards: bool = True
    ) -> Tensor:
        """Map noise (B, D) to images (B, C, H, W), or back, without the levels' log_dets."""
        if not backwards:
            return self(points, context)[0]
        *noise, last = self.unflatten(points)
        x = self.levels[-1].generate(last, context)  # type: ignore[operator]
        rest = zip(self.levels[:-1], self.splits, noise, strict=True)
        for level, split, out in reversed(list(rest)):
            x = level.generate(split.inverse(x, out)[0], context)  # type: ignore[operator]
        return x

    def unflatten(self, z: Tensor) -> list[Tensor]:
        """The noise (B, D) of each level as images, channels last in memory."""
        pieces = zip(z.flatten(1).split(self.sizes, dim=1), self.shapes, strict=True)
        return [
            piece.unflatten(1, shape).contiguous(memory_format=torch.channels_last)
            for piece, shape in pieces
        ]
