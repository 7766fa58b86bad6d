"""Figures of a table's runs: learned densities beside the truth, samples beside real images. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nfbench import record
from nfbench.catalog import Table, load_table
from nfbench.config import load

INCHES = 2.1  # one panel
IMAGE_GRID = 6  # images per side of a panel of samples


@dataclass(frozen=True)
class Picture:
    """What one run left to draw."""

    title: str
    arrays: dict[str, np.ndarray]

    @property
    def is_plane(self) -> bool:
        """Whether it is a density over the plane."""
        return "log_density" in self.arrays


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
    figure = Figure(figsize=(INCHES * 2 * len(columns), INCHES * height), layout="constrained")
    axes = figure.subplots(height, 2 * len(columns), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for number, (cell, found) in enumerate(columns.items()):
        left, right = axes[:, 2 * number], axes[:, 2 * number + 1]
        draw_truth(left[0], right[0], found[0], table.columns[cell].heading)
        for above, picture in enumerate(found, start=1):
            draw_model(left[above], right[above], picture, found[0])
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


def draw_truth(left: Axes, right: Axes, picture: Picture, heading: str) -> None:
    """The true density, or real images, at the head of a column."""
    if not picture.is_plane:
        draw_images(left, picture.arrays["real"], f"{heading}: real")
    elif "true_log_density" in picture.arrays:
        draw_density(left, picture.arrays, "true_log_density", f"{heading}: truth", picture)


def draw_model(left: Axes, right: Axes, picture: Picture, scale: Picture) -> None:
    """A model's density and samples side by side, or its sampled images."""
    if not picture.is_plane:
        draw_images(left, picture.arrays["samples"], f"{picture.title}: samples")
        return
    draw_density(left, picture.arrays, "log_density", picture.title, scale)
    x, y, samples = (picture.arrays[key] for key in ("x", "y", "samples"))
    right.scatter(samples[:, 0], samples[:, 1], s=0.5, color="black", alpha=0.35, linewidths=0)
    right.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]), aspect="equal")
    right.set_title("samples", fontsize=8)


def draw_density(axis: Axes, arrays: dict[str, np.ndarray], key: str, title: str, scale: Picture) -> None:
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
    tiles = images[: side * side].reshape(side, side, channels, height, width)
    canvas = tiles.transpose(0, 3, 1, 4, 2).reshape(side * height, side * width, channels)
    canvas = canvas.astype(float) / max(1.0, float(images.max()))
    axis.imshow(canvas.squeeze(-1) if channels == 1 else canvas, cmap="gray", vmin=0.0, vmax=1.0)
    axis.set_title(title, fontsize=8)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, atomically."""
    FigureCanvasAgg(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format="png", dpi=110)
    temporary.replace(path)
    return path
