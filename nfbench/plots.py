"""What `nfbench plot` draws: a table's runs side by side, or one run. Imports no torch."""

import re
import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patheffects import withStroke

from nfbench import record
from nfbench.catalog import Table, load_table
from nfbench.config import Experiment, load
from nfbench.errors import UsageError, elsewhere
from nfbench.figures import (
    LABEL,
    NO_NUMBER,
    TITLE,
    Arrays,
    bare,
    draw_density,
    draw_images,
    draw_points,
    is_plane,
    peak,
    read_arrays,
    save,
)
from nfbench.portrait import draw_row, portrait
from nfbench.stamp import stamp

INCHES, COMPACT_INCHES = 2.1, 1.15  # one panel
COMPACT_DPI = 115
MOST_ROWS = 4  # of a gallery with samples beside the densities, or of images with a line for each
ACROSS = 5  # panels of images in a line of a longer gallery
TITLE_WIDTH = 18  # characters of a row's title in a line
CAPTION = "{}: densities of the runs of seed {}; in each panel {}, in nats"
DIVERGENCES = {  # that are noted in panels, and what they are
    "test/kl": "KL(truth || model) on the test set",
    "test/reverse_kl": "KL(model || truth)",
}
RUN = re.compile(r"(\d+)(-[0-9a-f]{8})?")  # a run's folder: its seed, and its overrides' hash


@dataclass(frozen=True)
class Picture:
    """What one run left to draw; ``note`` is its KL divergence in nats, if there is one."""

    title: str
    arrays: Arrays
    note: str = ""

    @property
    def n_panels(self) -> int:
        """Density and samples of the plane side by side, or one panel of images."""
        return 2 if is_plane(self.arrays) else 1


Columns = dict[str, dict[str, Picture]]  # by cell, then by row


def plot(target: str, seed: int | None = None, root: Path | None = None) -> Path:
    """Draw a table, ``TABLE``, or a run, ``TABLE/ROW/CELL`` or ``TABLE/ROW/CELL/SEED``.

    A run's folder in runs/ is as good a name. The seed is 0 unless something says otherwise.

    Raises:
        UsageError: another target, an unknown name, or runs that left nothing to draw.
    """
    root = root or record.find_root()
    names = record.run_names(target, root)
    if len(names) in (3, 4):
        return plot_run(names, seed, root)
    if len(names) != 1:
        raise UsageError(
            "plot: expected TABLE, TABLE/ROW/CELL or TABLE/ROW/CELL/SEED, "
            f"got {target!r}; for example demo, demo/maf/moons or runs/demo/maf/moons/0"
        )
    path = gallery(names[0], root, seed or 0)
    if path is None:
        raise UsageError(
            f"{names[0]}: expected pictures of its runs in runs/{names[0]}, got none of seed "
            f"{seed or 0}; run its cells first"
        )
    return path


def plot_run(names: Sequence[str], seed: int | None, root: Path) -> Path:
    """Draw the run of a table, row, cell and perhaps a folder's name, to plot.png beside it."""
    table, row, cell, *rest = names
    folder = RUN.fullmatch(rest[0] if rest else str(seed or 0))
    if folder is None or (rest and seed not in (None, int(folder[1]))):
        given = f"{rest[0]!r}" + ("" if seed is None else f" and --seed {seed}")
        raise UsageError(f"plot: expected a seed after {table}/{row}/{cell}, got {given}")
    experiment = load(f"{table}/{row}", cell, int(folder[1]), (), root)
    heading = load_table(table, root).columns[cell].heading
    directory = record.run_dir(experiment, root).with_name(folder[0])
    place = directory / "record.json" if folder[2] else record.record_path(experiment, root)
    result = record.read(place) if place.exists() else None
    if result is not None and result.overrides:
        heading += f" with {', '.join(result.overrides)}"
    path = portrait(directory, f"{experiment.title} on {heading}, seed {folder[1]}", result)
    if path is None:
        here = sorted({each.parent.name for each in directory.parent.glob("*/*.npz")})
        todo = f"run it first: {shlex.join(experiment.command)}"
        if result is not None and result.status == "done":
            todo = elsewhere(place.relative_to(root), result.provenance["command"])
            if experiment.training.max_steps == 0:
                todo = f"what is not trained leaves pictures of images and the plane alone; {todo}"
        raise UsageError(
            f"{directory.relative_to(root)}: expected pictures or a training curve, got neither; "
            f"{todo} (here: {', '.join(here) or 'none'})"
        )
    return path


def gallery(table_name: str, root: Path | None = None, seed: int = 0) -> Path | None:
    """Draw every run of a table that left pictures, a column per cell and a row per model.

    A table of many rows over the plane shows densities alone, one of images several in a line.
    Returns the path of the PNG, or None if no run of the table left any.
    """
    root = root or record.find_root()
    table = load_table(table_name, root)
    columns = {cell: pictures(table, cell, root, seed) for cell in table.columns}
    columns = {cell: found for cell, found in columns.items() if found}
    if not columns:
        return None
    path, texts = root / "results" / f"{table_name}.png", stamp(table_name, root, seed)
    rows = [row for row in table.rows if any(row in found for found in columns.values())]
    planes = {is_plane(each.arrays) for found in columns.values() for each in found.values()}
    if planes == {True} and len(rows) > MOST_ROWS:
        return save(compact(table, columns, rows, seed), path, COMPACT_DPI, texts)
    if planes == {False} and len(rows) > MOST_ROWS:
        return save(mosaic(table, columns), path, texts=texts)
    return save(spacious(table, columns), path, texts=texts)


def pictures(table: Table, cell: str, root: Path, seed: int) -> dict[str, Picture]:
    """The pictures of a cell's runs by row, in the table's order."""
    found = {}
    metric = divergence(table)
    for row in table.rows:
        if cell in table.cells(row):
            experiment = load(f"{table.name}/{row}", cell, seed, (), root)
            arrays = read_arrays(record.run_dir(experiment, root) / "pictures.npz")
            if arrays:
                found[row] = Picture(experiment.title, arrays, note(experiment, metric, root))
    return found


def divergence(table: Table) -> str:
    """The metric of DIVERGENCES that a table compares, the first of them if it does none."""
    compared = {column.metric for column in table.columns.values()}
    return next((metric for metric in DIVERGENCES if metric in compared), next(iter(DIVERGENCES)))


def note(experiment: Experiment, metric: str, root: Path) -> str:
    """The KL divergence of this name that a run's record has, in nats."""
    path = record.record_path(experiment, root)
    kl = record.read(path).metrics.get(metric) if path.exists() else None
    return "" if kl is None else f"{kl:.3f}"


def compact(table: Table, columns: Columns, rows: Sequence[str], seed: int) -> Figure:
    """One panel of density a run; truths on top, models' names at the left."""
    height, width = 1 + len(rows), len(columns)
    size = (COMPACT_INCHES * (width + 1), COMPACT_INCHES * height + 0.4)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02))
    caption = CAPTION.format(table.title, seed, DIVERGENCES[divergence(table)])
    figure.suptitle(caption, fontsize=TITLE)
    axes = figure.subplots(height, width, squeeze=False)
    for axis in axes.flat:
        bare(axis)
        axis.set_box_aspect(1)
    for panels, (cell, found) in zip(axes.T, columns.items(), strict=True):
        first = next(iter(found.values()))
        draw_head(panels[0], first.arrays, table.columns[cell].heading)
        for axis, row in zip(panels[1:], rows, strict=True):
            if cell not in table.cells(row):
                axis.spines[:].set_visible(False)
            elif row in found:
                draw_density(axis, found[row].arrays, "log_density", "", peak(first.arrays))
                annotate(axis, found[row].note, (0.04, 0.04), "w", outline="0.2")
            else:
                annotate(axis, "no picture", (0.25, 0.45), NO_NUMBER)
    titles = {row: each.title for found in columns.values() for row, each in found.items()}
    for axis, title in zip(axes[:, 0], ["truth", *(titles[row] for row in rows)], strict=True):
        axis.set_ylabel(
            textwrap.fill(title, TITLE_WIDTH), rotation=0, ha="right", va="center", fontsize=TITLE
        )
    return figure


def annotate(
    axis: Axes, text: str, place: tuple[float, float], color: str, outline: str | None = None
) -> None:
    """A small text in a panel, at a place in fractions of it."""
    drawn = axis.annotate(text, place, xycoords="axes fraction", color=color, fontsize=LABEL)
    if outline is not None:
        drawn.set_path_effects([withStroke(linewidth=1.2, foreground=outline)])


def mosaic(table: Table, columns: Columns) -> Figure:
    """Images from left to right, real ones and then each model's; a data set starts a line."""
    lines = []
    for cell, found in columns.items():
        real = next(iter(found.values())).arrays["real"]
        shown = [(f"{table.columns[cell].heading}: real", real)]
        shown += [(f"{each.title}: samples", each.arrays["samples"]) for each in found.values()]
        white = float(real.max())
        panels = [partial(draw_images, images=i, title=t, white=white) for t, i in shown]
        lines += [panels[i : i + ACROSS] for i in range(0, len(panels), ACROSS)]
    width = max(map(len, lines))
    figure = Figure(figsize=(INCHES * width, INCHES * len(lines)), layout="constrained")
    for part, line in zip(
        figure.subfigures(len(lines), 1, squeeze=False)[:, 0], lines, strict=True
    ):
        draw_row(part, line, width)
    return figure


def spacious(table: Table, columns: Columns) -> Figure:
    """Density and samples of every run, or images; what is true or real at the head."""
    height = 1 + max(len(found) for found in columns.values())
    firsts = {cell: next(iter(found.values())) for cell, found in columns.items()}
    width = sum(first.n_panels for first in firsts.values())
    figure = Figure(figsize=(INCHES * width, INCHES * height), layout="constrained")
    axes = figure.subplots(height, width, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    start = 0
    for cell, found in columns.items():
        panels = axes[:, start : start + firsts[cell].n_panels]
        draw_truth(panels[0], firsts[cell], table.columns[cell].heading)
        for row, picture in zip(panels[1:], found.values(), strict=False):
            draw_model(row, picture, firsts[cell])
        start += firsts[cell].n_panels
    return figure


def draw_truth(panels: Sequence[Axes], picture: Picture, heading: str) -> None:
    """The true density and test data, or real images, at the head of a column."""
    if not is_plane(picture.arrays):
        real = picture.arrays["real"]
        draw_images(panels[0], real, f"{heading}: real", float(real.max()))
        return
    if "true_log_density" in picture.arrays:
        draw_head(panels[0], picture.arrays, f"{heading}: truth")
    draw_points(panels[1], picture.arrays, "real", "test data")


def draw_head(axis: Axes, arrays: Arrays, title: str) -> None:
    """The true density, or test data where it is not known."""
    if "true_log_density" in arrays:
        draw_density(axis, arrays, "true_log_density", title, peak(arrays))
    else:
        draw_points(axis, arrays, "real", title)


def draw_model(panels: Sequence[Axes], picture: Picture, first: Picture) -> None:
    """A model's density and samples side by side, or its sampled images."""
    if not is_plane(picture.arrays):
        white = float(picture.arrays["real"].max())
        draw_images(panels[0], picture.arrays["samples"], f"{picture.title}: samples", white)
        return
    draw_density(panels[0], picture.arrays, "log_density", picture.title, peak(first.arrays))
    draw_points(panels[1], picture.arrays, "samples", "samples")
