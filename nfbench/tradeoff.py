"""Accuracy against the cost of a sample, for every row of a table. Imports no torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from nfbench import record, tables
from nfbench.catalog import Column
from nfbench.config import Experiment
from nfbench.errors import UsageError
from nfbench.figures import FRAME, LABEL, TITLE, save
from nfbench.record import Record
from nfbench.verdict import Entry

INCHES = (4.2, 3.4)  # one panel
RATE = "speed/samples_per_second"
FAMILIES = {  # by what makes one way cheap and the other dear: color, and the flows
    "autoregressive": ("tab:blue", "made made_mog maf maf_mog nsf/autoregressive"),
    "inverse autoregressive": ("tab:orange", "iaf"),
    "coupling": (
        "tab:green",
        "nice realnvp realnvp_image glow glow_image lippe_image nsf/coupling nsf_image",
    ),
    "residual": ("tab:purple", "planar radial sylvester"),
    "continuous": ("tab:red", "ffjord ffjord_image"),
    "linear": ("tab:gray", "identity gaussian"),
}
NO_FAMILY = "other", "black"
AROUND = (1, 0), (0, 1), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)
DISTANCES = 5, 12, 20  # points from a mark to its label: the first that fits


@dataclass(frozen=True)
class Mark:
    """A row in a panel: what a sample costs, our number and its error."""

    label: str
    family: str
    color: str
    cost: float
    value: float
    error: float


def draw(table_name: str, root: Path | None = None) -> Path | None:
    """Draw results/<table>_speed.png; None if no run of the table has been measured.

    A row of panels for each column of the table that has a measured run: on the left milliseconds
    a sample at the best size of batch, on the right the passes of the networks that a sample
    waits for, of all runs with an audit. Stale runs are left out.
    """
    root = root or record.find_root()
    view = tables.build(table_name, root, more=(RATE,))
    shown = [e for e in view.entries if e.ours is not None and e.verdict != "stale"]
    measured = {e.experiment.cell for e in shown if e.extra[RATE]}
    columns = {cell: column for cell, column in view.table.columns.items() if cell in measured}
    if not columns:
        return None
    width, height = INCHES
    figure = Figure(figsize=(2 * width, height * len(columns) + 0.7), layout="constrained")
    figure.suptitle(f"{view.table.title}: accuracy against the cost of a sample", fontsize=TITLE)
    for axes, (cell, column) in zip(
        figure.subplots(len(columns), 2, squeeze=False), columns.items(), strict=True
    ):
        entries = [entry for entry in shown if entry.experiment.cell == cell]
        fill(axes[0], column, [mark(e, 1000 / r) for e in entries if (r := e.extra[RATE])])
        fill(axes[1], column, [mark(e, p) for e in entries if (p := passes_of(e)) is not None])
        axes[0].set_xscale("log")
        axes[1].set_xscale("symlog", linthresh=1)
        axes[0].set_xlabel("milliseconds a sample, at the best size of batch", fontsize=LABEL)
        axes[1].set_xlabel("passes of the networks a sample, one after another", fontsize=LABEL)
    figure.supxlabel(caption(table_name, root), fontsize=LABEL)
    return save(finished(figure), root / "results" / f"{table_name}_speed.png", 130)


def require(table_name: str, root: Path | None = None) -> Path:
    """Draw it.

    Raises:
        UsageError: no run of the table has been measured.
    """
    if path := draw(table_name, root):
        return path
    raise UsageError(
        f"{table_name}: expected runs whose speed is measured, got none; "
        f"measure them first: nfbench speed {table_name}"
    )


def mark(entry: Entry, cost: float) -> Mark:
    """An entry at a cost; its error is the spread over seeds, of one seed that of test points."""
    family, color = family_of(entry.experiment)
    error = entry.points if entry.seeds is None else entry.seeds
    value = 0.0 if entry.ours is None else entry.ours
    return Mark(entry.experiment.title, family, color, cost, value, error or 0.0)


def passes_of(entry: Entry) -> int | None:
    """The passes of a sample, if an audit has counted them."""
    found = entry.audited and entry.audited.passes
    return found[1] if found else None


def family_of(experiment: Experiment) -> tuple[str, str]:
    """The family of an experiment's flow, and its color."""
    name, kind = experiment.flow["name"], experiment.flow.get("kind")
    for family, (color, flows) in FAMILIES.items():
        if {name, f"{name}/{kind}"} & set(flows.split()):
            return family, color
    return NO_FAMILY


def fill(axis: Axes, column: Column, marks: Sequence[Mark]) -> None:
    """Points with their errors, better upwards."""
    for each in marks:
        axis.errorbar(
            each.cost,
            each.value,
            yerr=each.error,
            color=each.color,
            marker="o",
            markersize=5,
            linewidth=1,
            capsize=2,
        )
        axis.annotate(each.label, (each.cost, each.value), fontsize=LABEL, color=each.color)
    axis.margins(0.15, 0.12)
    if column.direction == "lower":
        axis.invert_yaxis()
    metric = f"{column.heading}: {column.metric.removeprefix('-')}"
    axis.set_ylabel(f"{metric}, {column.unit}\nbetter →", fontsize=LABEL)
    axis.tick_params(labelsize=LABEL, length=2)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[:].set(color=FRAME)
    families = {each.family: each.color for each in marks}
    handles = [
        Line2D([], [], color=families[name], marker="o", linestyle="", markersize=4, label=name)
        for name in [*FAMILIES, NO_FAMILY[0]]
        if name in families
    ]
    axis.legend(handles=handles, fontsize=LABEL, frameon=False, loc="best")


def caption(table_name: str, root: Path) -> str:
    """On what the times were taken, and what the bars mean."""
    places = {place_of(r) for r in record.records(table_name, root) if "precision" in r.speed}
    return (
        f"Times: {'; '.join(sorted(places))}. Bars: standard deviation over seeds, "
        "of one seed the ± over test points."
    )


def place_of(measured: Record) -> str:
    """Device, threads and precision of a measurement."""
    speed: dict[str, Any] = measured.speed
    return f"{speed['device']}, threads {speed['threads']}, {speed['precision']}"


def finished(figure: Figure) -> Figure:
    """The figure with each label where it covers the least: of marks, labels and the edge."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    for axis in figure.axes:
        labels = [text for text in axis.texts if isinstance(text, Annotation)]
        taken = [around(axis, label.xy) for label in labels]
        legend = axis.get_legend()
        if legend is not None:
            taken.append(legend.get_window_extent())
        for label in labels:
            place(label, axis.get_window_extent(), taken)
            taken.append(label.get_window_extent())
    return figure


def around(axis: Axes, point: tuple[float, float]) -> Bbox:
    """The square that a mark covers, in pixels."""
    x, y = axis.transData.transform(point)
    return Bbox.from_extents(x - 4, y - 4, x + 4, y + 4)


def place(label: Annotation, frame: Bbox, taken: Sequence[Bbox]) -> None:
    """Put a label beside its mark where it covers least and stays within the panel."""
    costs = {spot: covered(moved(label, spot), frame, taken) for spot in spots()}
    moved(label, min(costs, key=lambda spot: costs[spot]))


def spots() -> Iterator[tuple[float, float]]:
    """Offsets from a mark in points, the nearest first."""
    return ((r * x, r * y) for r in DISTANCES for x, y in AROUND)


def moved(label: Annotation, spot: tuple[float, float]) -> Bbox:
    """Move a label by an offset from its mark; what it covers then, in pixels."""
    x, y = spot
    label.set_anncoords("offset points")
    label.set_position(spot)
    label.set_horizontalalignment("center" if x == 0 else "left" if x > 0 else "right")
    label.set_verticalalignment("center" if y == 0 else "bottom" if y > 0 else "top")
    return label.get_window_extent()


def covered(box: Bbox, frame: Bbox, taken: Sequence[Bbox]) -> float:
    """The area of a box that is covered already or beyond the frame, in pixels squared."""
    inside = Bbox.intersection(box, frame)
    outside = box.width * box.height - (0.0 if inside is None else inside.width * inside.height)
    overlaps = (Bbox.intersection(box, other) for other in taken)
    return outside + sum(each.width * each.height for each in overlaps if each is not None)
