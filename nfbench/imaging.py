"""Images in a grid, pixel by pixel, and points of the plane, as PNG. Imports no torch."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from nfbench.atomic import replacing
from nfbench.figures import bare, in_frame, save

GAP = 2  # pixels around each image
GAP_GRAY, NO_NUMBER = 128, 153
SMALLEST = 48  # pixels of a side: smaller images are enlarged by a whole factor
PANEL, MARGIN = 4.0, 0.1  # inches; of the range of the points
INK, SIZES = 5000.0, (1.0, 12.0)  # square points of type, of all points and of each


def to_bytes(images: np.ndarray, white: float) -> np.ndarray:
    """Images as uint8, ``white`` and more as 255, 0 and less as 0; gray what is not a number."""
    shown = np.where(np.isnan(images), np.nan, np.clip(images / white, 0, 1) * 255)
    rounded: np.ndarray = np.nan_to_num(shown, nan=NO_NUMBER).round().astype(np.uint8)
    return rounded


def grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Images uint8 (n, channels, height, width) in rows, a canvas (H, W, channels).

    They are enlarged to a side of at least 48 pixels by repeating pixels; between and around them
    are gray lines, and so are the places that are left over.
    """
    n, channels, height, width = images.shape
    factor = -(-SMALLEST // max(height, width)) if max(height, width) < SMALLEST else 1
    large = images.repeat(factor, axis=2).repeat(factor, axis=3)
    rows = -(-n // columns)
    size = factor * height + GAP, factor * width + GAP
    tiles = np.full((rows * columns, channels, *size), GAP_GRAY, np.uint8)
    tiles[:n, :, :-GAP, :-GAP] = large
    joined = tiles.reshape(rows, columns, channels, *size).transpose(0, 3, 1, 4, 2)
    canvas = joined.reshape(rows * size[0], columns * size[1], channels)
    return np.pad(canvas, ((GAP, 0), (GAP, 0), (0, 0)), constant_values=GAP_GRAY)


def write_grid(images: np.ndarray, columns: int, path: Path) -> Path:
    """Write a grid of gray or color images (n, 1 or 3, height, width), uint8, as PNG."""
    canvas = grid(images, columns)
    with replacing(path) as file:
        picture = Image.fromarray(canvas.squeeze(-1) if canvas.shape[-1] == 1 else canvas)
        picture.save(file, format="png")
    return path


def write_points(samples: np.ndarray, real: np.ndarray, path: Path) -> Path:
    """Write points of the plane (n, 2) beside real ones, in the frame of these, as PNG."""
    low, high = real.min(0), real.max(0)
    center, reach = (low + high) / 2, (0.5 + MARGIN) * (high - low).max()
    x, y = np.stack([center - reach, center + reach], axis=1)
    figure = Figure(figsize=(2 * PANEL, PANEL), layout="constrained")
    panels = {"test data": real, "samples": samples}
    for axis, (title, points) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        size = float(np.clip(INK / max(1, len(points)), *SIZES))
        axis.scatter(*points.T, s=size, color="black", alpha=0.5, linewidths=0)
        in_frame(axis, {"x": x, "y": y})
        bare(axis, title)
    return save(figure, path)
