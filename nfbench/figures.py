"""The panels that figures are made of: densities, points, lines, images, curves.

Imports no torch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from nfbench.atomic import replacing

Arrays = dict[str, np.ndarray]

TITLE, LABEL = 8, 6.5  # points of type
FRAME, NO_NUMBER = "0.8", "0.6"  # grays
IMAGE_GRID = 6  # images per side of a panel of samples
GAP = ((0, 0), (0, 0), (0, 1), (0, 1))  # a line below and to the right of each image
GAP_GRAY = 0.5
DIFFERENCE = 2.0  # nats at the ends of the color scale of log-density differences
FAINT = 1e-3  # of the largest density: where it is lower, differences are not shown
TAIL = 0.5  # per cent of the points that may be beyond either side of a panel


def read_arrays(path: Path) -> Arrays:
    """The arrays that a run left for figures; none if it left no file or an empty one."""
    if not path.exists() or not path.stat().st_size:
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def is_plane(arrays: Arrays) -> bool:
    """Whether a run's arrays hold a density over the plane."""
    return "log_density" in arrays


def peak(arrays: Arrays) -> float:
    """The end of the color scale of densities: the highest of the truth, where it is known."""
    reference = arrays.get("true_log_density", arrays["log_density"])
    return density(reference[np.isfinite(reference)]).max(initial=0.0) or 1.0


def density(log_density: np.ndarray) -> np.ndarray:
    """Densities in float64, which holds those of a model that is too sure of itself too."""
    values: np.ndarray = np.exp(log_density.astype(np.float64))
    return values


def bare(axis: Axes, title: str = "") -> None:
    """A thin frame without ticks, and a title."""
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set(color=FRAME, linewidth=0.5)
    axis.set_title(title, fontsize=TITLE)


def in_frame(axis: Axes, arrays: Arrays) -> None:
    """Show the square of the densities."""
    x, y = arrays["x"], arrays["y"]
    axis.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]), aspect="equal")


def draw_density(
    axis: Axes, arrays: Arrays, key: str, title: str, scale: float, cmap: str = "viridis"
) -> None:
    """A density as an image, colored from 0 to ``scale``; gray where it is not a number."""
    x, y = arrays["x"], arrays["y"]
    extent = (x[0], x[-1], y[0], y[-1])
    axis.imshow(
        density(arrays[key]), origin="lower", extent=extent, cmap=cmap, vmin=0.0, vmax=scale
    )
    axis.set_facecolor(NO_NUMBER)
    bare(axis, title)


def draw_difference(axis: Axes, arrays: Arrays, title: str) -> None:
    """Log-density of the model minus that of the truth, where either is not faint."""
    model, truth = arrays["log_density"], arrays["true_log_density"]
    faint = np.maximum(model, truth) < np.log(FAINT * peak(arrays))
    with np.errstate(invalid="ignore"):
        shown = np.where(faint, np.nan, np.clip(model - truth, -DIFFERENCE, DIFFERENCE))
    x, y = arrays["x"], arrays["y"]
    image = axis.imshow(
        shown,
        origin="lower",
        extent=(x[0], x[-1], y[0], y[-1]),
        cmap="RdBu_r",
        vmin=-DIFFERENCE,
        vmax=DIFFERENCE,
    )
    bare(axis, title)
    inset = axis.inset_axes((0.2, -0.05, 0.6, 0.025))
    bar = axis.figure.colorbar(image, cax=inset, orientation="horizontal")
    ends = [f"−{DIFFERENCE:g} nats", "0", f"+{DIFFERENCE:g}"]
    bar.set_ticks([-DIFFERENCE, 0, DIFFERENCE], labels=ends)
    bar.ax.tick_params(labelsize=LABEL, length=0, pad=1)
    bar.outline.set_visible(False)


def draw_points(axis: Axes, arrays: Arrays, key: str, title: str) -> None:
    """Points of the plane, in the frame of the densities."""
    points = arrays[key]
    axis.scatter(points[:, 0], points[:, 1], s=0.5, color="black", alpha=0.35, linewidths=0)
    in_frame(axis, arrays)
    bare(axis, title)


def draw_grid(axis: Axes, arrays: Arrays, title: str) -> None:
    """Lines that are straight in the noise, over the faint density of the model."""
    draw_density(axis, arrays, "log_density", title, 2.5 * peak(arrays), cmap="Greys")
    for lines, color in zip(arrays["grid"], ("tab:red", "tab:blue"), strict=True):
        axis.add_collection(LineCollection(list(lines), colors=color, linewidths=0.5))
    in_frame(axis, arrays)


def colors_of(noise: np.ndarray) -> np.ndarray:
    """The colors (n, 4) of points by their direction in the noise, seen from its center."""
    x, y = (noise - np.median(noise, axis=0)).T
    colors = colormaps["hsv"](np.arctan2(y, x) / (2 * np.pi) + 0.5)
    return colors * (0.88, 0.88, 0.88, 1.0)  # yellow and green stand out from the white too


def draw_stage(axis: Axes, points: np.ndarray, colors: np.ndarray, title: str) -> None:
    """Points on their way from noise to data, in a square around nearly all of them."""
    finite = np.isfinite(points).all(axis=1)
    if finite.any():
        x, y = points[finite].T
        axis.scatter(x, y, s=1.2, c=colors[finite], linewidths=0)
        low, high = np.percentile(points[finite], (TAIL, 100 - TAIL), axis=0)
        (x, y), reach = (low + high) / 2, 0.57 * max((high - low).max(), 1e-6)
        axis.set(xlim=(x - reach, x + reach), ylim=(y - reach, y + reach))
    axis.set_box_aspect(1)
    bare(axis, title)


def draw_curve(axis: Axes, curve: Sequence[dict[str, float]], title: str) -> None:
    """Mean log-likelihoods of training and validation against steps; a bad start is cut off."""
    steps = [line["step"] for line in curve]
    train = np.array([-line["train_loss"] for line in curve])
    val = np.array([line["val_log_likelihood"] for line in curve])
    marker = "." if len(curve) == 1 else ""  # a line through one point is invisible
    axis.plot(steps, train, color="0.6", linewidth=1, marker=marker, label="training")
    axis.plot(steps, val, color="tab:blue", linewidth=1.2, marker=marker, label="validation")
    shown = np.concatenate([train, val])
    shown = shown[np.isfinite(shown)]
    if len(shown):
        low, high = np.percentile(shown, 10), shown.max()
        margin = 0.08 * (high - low) or 1.0
        axis.set_ylim(max(shown.min(), low - (high - low)) - margin, high + margin)
    against_steps(axis, title)


def draw_curves(axis: Axes, curves: Mapping[str, Sequence[dict[str, float]]], title: str) -> None:
    """Validations of several runs against steps, by name; bad starts are cut off."""
    for i, (name, curve) in enumerate(curves.items()):
        values = [line["val_log_likelihood"] for line in curve]
        steps, color = [line["step"] for line in curve], colormaps["tab20"](i % 20)
        axis.plot(steps, values, color=color, linewidth=1.2, label=name)
    ends = [curve[-1]["val_log_likelihood"] for curve in curves.values()]
    starts = [line["val_log_likelihood"] for curve in curves.values() for line in curve]
    low, high = min(ends), max(starts)
    margin = 0.5 * (high - low) or 1.0
    axis.set_ylim(max(min(starts), low - margin) - 0.1 * margin, high + 0.1 * margin)
    against_steps(axis, title)


def draw_nfe(axis: Axes, curve: Sequence[dict[str, float]], title: str) -> None:
    """Mean evaluations per solve, forward and backward, against steps; from zero on."""
    steps = [line["step"] for line in curve]
    for phase, color in (("forward", "tab:blue"), ("backward", "tab:orange")):
        values = [line[f"nfe_{phase}"] for line in curve]
        axis.plot(steps, values, color=color, linewidth=1.2, label=phase)
    axis.set_ylim(bottom=0)
    against_steps(axis, title)


def against_steps(axis: Axes, title: str) -> None:
    """The frame of lines against steps: a legend, thin axes, a title."""
    axis.tick_params(labelsize=LABEL, length=2)
    axis.set_xlabel("step", fontsize=LABEL, labelpad=1)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[:].set(color=FRAME)
    axis.legend(fontsize=LABEL, frameon=False, loc="lower right")
    axis.set_title(title, fontsize=TITLE)


def draw_images(axis: Axes, images: np.ndarray, title: str, white: float) -> None:
    """A square of gray or color images (n, channels, height, width), 0 black, ``white`` white.

    What is not a number is gray.
    """
    side = min(IMAGE_GRID, int(len(images) ** 0.5))
    _, channels, height, width = images.shape
    shown = np.nan_to_num(images[: side * side].astype(float) / white, nan=float(NO_NUMBER))
    framed = np.pad(shown, GAP, constant_values=GAP_GRAY)
    tiles = framed.reshape(side, side, channels, height + 1, width + 1)
    size = side * (height + 1), side * (width + 1)
    canvas = tiles.transpose(0, 3, 1, 4, 2).reshape(*size, channels).clip(0, 1)
    axis.imshow(canvas.squeeze(-1) if channels == 1 else canvas, cmap="gray", vmin=0.0, vmax=1.0)
    bare(axis, title)


def save(
    figure: Figure, path: Path, dpi: int = 110, texts: Mapping[str, str] | None = None
) -> Path:
    """Write a figure as PNG, atomically, with texts in it that no one sees."""
    FigureCanvasAgg(figure)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=dpi, metadata=dict(texts or {}))
    return path
