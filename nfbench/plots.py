"""Figures of a table's runs: learned densities beside the truth, samples beside real images.

Imports no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nfbench import record
from nfbench.atomic import replacing
from nfbench.catalog import Table, load_table
from nfbench.config import load

INCHES = 2.1  # one panel
IMAGE_GRID = 6  # images per side of a panel of samples
GAP, GAP_GRAY = (
    ((0, 0), (0, 0), (0, 1), (0, 1)),
    0.5,
)  # a line below and to the right of each image


@dataclass(frozen=True)
class Picture:
    """What one run left to draw."""

    title: str
    arrays: dict[str, np.ndarray]

    @property
    def is_plane(self) -> bool:
        """Whether it is a density over the plane."""
        return "log_density" in self.arrays

    @property
    def n_panels(self) -> int:
        """Density and samples of the plane side by side, or one panel of images."""
        return 2 if self.is_plane else 1


def gallery(table_name: str, root: Path | None = None, seed: int = 0) -> Path | None:
    """Draw every run of a table that left pictures, a column per cell and a row per model.

    Returns the path of the PNG, or None if no run of the table left any.
    """
    root = root or record.find_root()
    table = load_table(table_name, root)
    columns = {cell: pictures(table, cell, root, seed) for cell in table.columns}
    columns = {cell: found for cell, found in columns.items() if found}
    if not columns:
        return None
    height = 1 + max(len(found) for found in columns.values())
    width = sum(found[0].n_panels for found in columns.values())
    figure = Figure(figsize=(INCHES * width, INCHES * height), layout="constrained")
    axes = figure.subplots(height, width, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    first = 0
    for cell, found in columns.items():
        panels = axes[:, first : first + found[0].n_panels]
        draw_truth(panels[0], found[0], table.columns[cell].heading)
        for row, picture in zip(panels[1:], found, strict=False):
            draw_model(row, picture, found[0])
        first += found[0].n_panels
    return save(figure, root / "results" / f"{table_name}.png")


def pictures(table: Table, cell: str, root: Path, seed: int) -> list[Picture]:
    """The pictures of a cell's runs, in the table's order of rows."""
    found = []
    for row in table.rows:
        if cell in table.cells(row):
            experiment = load(f"{table.name}/{row}", cell, seed, (), root)
            path = record.run_dir(experiment, root) / "pictures.npz"
            if path.exists():
                with np.load(path, allow_pickle=False) as arrays:
                    found.append(Picture(experiment.title, dict(arrays)))
    return found


def draw_truth(panels: Sequence[Axes], picture: Picture, heading: str) -> None:
    """The true density and test data, or real images, at the head of a column."""
    if not picture.is_plane:
        draw_images(panels[0], picture.arrays["real"], f"{heading}: real")
        return
    if "true_log_density" in picture.arrays:
        draw_density(panels[0], picture.arrays, "true_log_density", f"{heading}: truth", picture)
    draw_points(panels[1], picture.arrays, "real", "test data")


def draw_model(panels: Sequence[Axes], picture: Picture, scale: Picture) -> None:
    """A model's density and samples side by side, or its sampled images."""
    if not picture.is_plane:
        draw_images(panels[0], picture.arrays["samples"], f"{picture.title}: samples")
        return
    draw_density(panels[0], picture.arrays, "log_density", picture.title, scale)
    draw_points(panels[1], picture.arrays, "samples", "samples")


def draw_points(axis: Axes, arrays: dict[str, np.ndarray], key: str, title: str) -> None:
    """Points of the plane, in the frame of the densities."""
    x, y, points = arrays["x"], arrays["y"], arrays[key]
    axis.scatter(points[:, 0], points[:, 1], s=0.5, color="black", alpha=0.35, linewidths=0)
    axis.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]), aspect="equal")
    axis.set_title(title, fontsize=8)


def draw_density(
    axis: Axes, arrays: dict[str, np.ndarray], key: str, title: str, scale: Picture
) -> None:
    """A density as an image; one color scale per column, that of the truth where it is known."""
    reference = scale.arrays.get("true_log_density", scale.arrays["log_density"])
    x, y = arrays["x"], arrays["y"]
    axis.imshow(
        np.exp(arrays[key]),
        origin="lower",
        extent=(x[0], x[-1], y[0], y[-1]),
        cmap="viridis",
        vmin=0.0,
        vmax=float(np.exp(reference).max()),
    )
    axis.set_title(title, fontsize=8)


def draw_images(axis: Axes, images: np.ndarray, title: str) -> None:
    """A square of gray or color images (n, channels, height, width)."""
    side = min(IMAGE_GRID, int(len(images) ** 0.5))
    _, channels, height, width = images.shape
    framed = np.pad(
        images[: side * side].astype(float) / images.max(), GAP, constant_values=GAP_GRAY
    )
    tiles = framed.reshape(side, side, channels, height + 1, width + 1)
    canvas = tiles.transpose(0, 3, 1, 4, 2).reshape(
        side * (height + 1), side * (width + 1), channels
    )
    axis.imshow(canvas.squeeze(-1) if channels == 1 else canvas, cmap="gray", vmin=0.0, vmax=1.0)
    axis.set_title(title, fontsize=8)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, atomically."""
    FigureCanvasAgg(figure)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=110)
    return path
