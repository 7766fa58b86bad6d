"""Space into channels."""

from typing import Literal

from torch import Tensor

from .base import Transform, no_volume_change

# The pixels (row, column) of a 2 x 2 block, in the order of the channels they become.
BLOCKS = {"channel": (0, 1, 2, 3), "checkerboard": (0, 3, 1, 2)}


class Squeeze(Transform):
    """(B, C, H, W) -> (B, 4C, H/2, W/2): each block of 2 x 2 pixels becomes one; log_det = 0.

    ``order="channel"``: channel 4c + i holds pixel i of channel c, in reading order (Dinh et al.
    2016, section 3.6; Kingma & Dhariwal 2018). ``"checkerboard"``: the first 2C channels hold one
    diagonal of the blocks, the rest the other one, so that the halves are the colors of a
    checkerboard (authors' code of Real NVP, where half of the channels are factored out).

    Raises:
        ValueError: if there is no such order; when called, if a side is odd.
    """

    def __init__(self, order: Literal["channel", "checkerboard"] = "channel") -> None:
        super().__init__()
        if order not in BLOCKS:
            raise ValueError(f"order: expected one of {', '.join(BLOCKS)}; got {order!r}")
        self.by_pixel = order == "checkerboard"
        self.pixels = list(BLOCKS[order])
        self.places = [self.pixels.index(pixel) for pixel in range(4)]

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Squeeze images (B, C, H, W)."""
        n, c, h, w = x.shape
        if h % 2 or w % 2:
            raise ValueError(f"squeeze: expected even sides, got an image of {h} x {w} pixels")
        # Channels last in memory, and so after it: one copy.
        blocks = x.movedim(1, -1).reshape(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 5, 2, 4)
        blocks = blocks.reshape(n, h // 2, w // 2, c, 4)
        if self.by_pixel:
            blocks = blocks[..., self.pixels].transpose(3, 4)
        return blocks.flatten(3).movedim(-1, 1), no_volume_change(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Spread the channels of (B, 4C, H/2, W/2) over space again."""
        n, c, h, w = z.shape
        blocks = z.movedim(1, -1)
        if self.by_pixel:
            blocks = blocks.unflatten(3, (4, c // 4)).transpose(3, 4)[..., self.places]
        blocks = blocks.reshape(n, h, w, c // 4, 2, 2).permute(0, 1, 4, 2, 5, 3)
        return blocks.reshape(n, 2 * h, 2 * w, c // 4).movedim(-1, 1), no_volume_change(z)
