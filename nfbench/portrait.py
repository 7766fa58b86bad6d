"""The figure of one run: its density and samples, how it moves noise, how it was trained.

Imports no torch.
"""

import logging
import textwrap
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from nfbench.curve import read_curve
from nfbench.figures import (
    Arrays,
    colors_of,
    draw_curve,
    draw_density,
    draw_difference,
    draw_grid,
    draw_images,
    draw_nfe,
    draw_points,
    draw_stage,
    is_plane,
    peak,
    read_arrays,
    save,
)
from nfbench.record import Record

log = logging.getLogger("nfbench")
PANEL, NARROWEST, WIDEST = 2.5, 5.0, 13.5  # inches
IMAGES = 4.0  # inches of a panel of images, in which those of 64 x 64 pixels lose none
LETTERS_AN_INCH = 13  # of a title
HEADROOM = 0.32  # inches above a row of panels, for their titles
STAGE_COLUMNS = 6  # at least, so that the panels of a short way are no larger than those above

Panel = Callable[[Axes], None]


def portrait(directory: Path, heading: str, result: Record | None) -> Path | None:
    """Draw what a run left in its directory, to plot.png there; None if it left nothing to draw.

    A curve alone is drawn alone; what older pictures lack is left out, with a warning.
    """
    arrays = read_arrays(directory / "pictures.npz")
    rows = [[*overview(arrays), *training(directory)], stages(arrays)]
    rows = [row for row in rows if row]
    if not rows:
        return None
    if is_plane(arrays) and "grid" not in arrays:
        log.warning(
            "%s: its pictures.npz has no grid and no steps of the noise, which are drawn of plain "
            "flows that ran since these figures are there",
            directory,
        )
    panel = PANEL if is_plane(arrays) or not arrays else IMAGES
    width = min(max(panel * len(rows[0]), NARROWEST), WIDEST)
    columns = [len(rows[0]), *(max(len(row), STAGE_COLUMNS) for row in rows[1:])]
    heights = [min(width / n, 1.2 * panel) + HEADROOM for n in columns]
    figure = Figure(figsize=(width, sum(heights) + 2 * HEADROOM), layout="constrained")
    texts = [heading, *results(result)]
    letters = int(width * LETTERS_AN_INCH)
    figure.suptitle("\n".join(textwrap.fill(each, letters) for each in texts), fontsize=10)
    parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, row, n in zip(parts, rows, columns, strict=True):
        draw_row(part, row, n)
    return save(figure, directory / "plot.png")


def draw_row(part: SubFigure, row: Sequence[Panel], columns: int) -> None:
    """Panels side by side, from the left."""
    axes = part.subplots(1, columns, squeeze=False)[0]
    for axis in axes[len(row) :]:
        axis.set_axis_off()
    for axis, draw in zip(axes, row, strict=False):
        draw(axis)


def overview(arrays: Arrays) -> Iterator[Panel]:
    """Densities, samples and the warped grid of the plane; or images, real and sampled."""
    if is_plane(arrays):
        scale, known = peak(arrays), "true_log_density" in arrays
        title = "model density"
        if known:
            yield partial(
                draw_density, arrays=arrays, key="true_log_density", title="truth", scale=scale
            )
            title = "model, same colors"
        yield partial(draw_density, arrays=arrays, key="log_density", title=title, scale=scale)
        if known:
            yield partial(draw_difference, arrays=arrays, title="log model − log truth")
        else:
            yield partial(draw_points, arrays=arrays, key="real", title="test data")
        yield partial(draw_points, arrays=arrays, key="samples", title="samples")
        if "grid" in arrays:
            yield partial(draw_grid, arrays=arrays, title="grid of the noise, moved")
    elif arrays:
        white = float(arrays["real"].max())
        yield partial(draw_images, images=arrays["real"], title="real", white=white)
        yield partial(draw_images, images=arrays["samples"], title="samples", white=white)


def training(directory: Path) -> Iterator[Panel]:
    """The curve of the training, if there was one, and what solving ODEs took."""
    if curve := read_curve(directory / "curve.jsonl"):
        yield partial(draw_curve, curve=curve, title="mean log-likelihood (nats)")
        if counted := [line for line in curve if "nfe_forward" in line]:
            yield partial(draw_nfe, curve=counted, title="evaluations of the field per solve")


def stages(arrays: Arrays) -> list[Panel]:
    """The same points at the start and after some of the steps noise -> data; none if no step."""
    if "stage" not in arrays or not arrays["n_steps"]:
        return []
    trajectories, names = arrays["transport"], arrays["stage_name"]
    n_steps, colors = int(arrays["n_steps"]), colors_of(trajectories[0])
    titles = [f"noise\n{names[0]}"]
    for stage, name in zip(arrays["stage"][1:], names[1:], strict=True):
        titles.append(f"after {stage} of {n_steps}\n{name}")
    return [
        partial(draw_stage, points=points, colors=colors, title=title)
        for points, title in zip(trajectories, titles, strict=True)
    ]


def results(result: Record | None) -> Iterator[str]:
    """One line on what the run gave on the test set, if it has a record."""
    if result is None:
        return
    if result.failure:
        yield f"failed: {result.failure['message']}"
        return
    metrics = result.metrics
    line = f"test log-likelihood {metrics['test/log_likelihood']:.4f} nats"
    if metrics.get("test/bits_per_dim") is not None:
        line += f", {metrics['test/bits_per_dim']:.4f} bits/dim"
    if metrics.get("test/kl") is not None:
        line += f", {metrics['test/kl']:.4f} nats from the truth"
    if metrics.get("test/reverse_kl") is not None:
        line += f", KL(model || truth) {metrics['test/reverse_kl']:.4f} nats"
    yield line
