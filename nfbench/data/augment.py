"""Images changed at random, in batches on their device. Only training batches are.

An augmentation moves pixels along rows and columns: the coordinates that they come from are worked
out for the whole batch, and the pixels are gathered once.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

FURTHEST = 0.1  # of the side


def flip(rows: Tensor, columns: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Mirror left and right with probability 1/2."""
    n = len(columns)
    mirrored = torch.rand(n, 1, generator=generator, device=columns.device) < 0.5
    return rows, torch.where(mirrored, columns.flip(1), columns)


def shift(rows: Tensor, columns: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Move by whole pixels, at most a tenth of the side each way; pixels at the edge repeat.

    Down and right by independent uniform integers; Kingma & Dhariwal (2018), in their code.
    """
    return moved(rows, generator), moved(columns, generator)


def moved(lines: Tensor, generator: Generator) -> Tensor:
    """Each row of coordinates (n, side) moved by its own number of places, edges repeated."""
    n, side = lines.shape
    reach = int(FURTHEST * side)
    by = torch.randint(-reach, reach + 1, (n, 1), generator=generator, device=lines.device)
    return lines.gather(1, (torch.arange(side, device=lines.device) - by).clamp(0, side - 1))


AUGMENTATIONS: dict[str, Callable[[Tensor, Tensor, Generator], tuple[Tensor, Tensor]]] = {
    "flip": flip,
    "shift": shift,
}


def augment(images: Tensor, names: Sequence[str], generator: Generator) -> Tensor:
    """Images (N, C, H, W) of any type after the named changes in turn, drawn from a generator."""
    n, n_channels, height, width = images.shape
    device = images.device
    rows = torch.arange(height, device=device).expand(n, height)
    columns = torch.arange(width, device=device).expand(n, width)
    for name in names:
        rows, columns = AUGMENTATIONS[name](rows, columns, generator)
    image = torch.arange(n, device=device)[:, None, None, None]
    channel = torch.arange(n_channels, device=device)[:, None, None]
    return images[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def binarize(images: Tensor, generator: Generator) -> Tensor:
    """Images of 0 and 1, drawn: a pixel k in 0..255 becomes 1 with probability k / 255; uint8.

    r < k for a uniform integer r in 0..254: exact, and a byte a pixel.
    """
    drawn = torch.randint(
        255, images.shape, generator=generator, dtype=images.dtype, device=images.device
    )
    return (drawn < images).to(images.dtype)
