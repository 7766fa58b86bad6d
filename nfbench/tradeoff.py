"""Accuracy against the cost of a sample, for every row of a table. Imports no torch."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from nfbench import tables
from nfbench.catalog import Column
from nfbench.conditions import alike, conditions
from nfbench.config import Experiment
from nfbench.errors import UsageError
from nfbench.figures import FRAME, LABEL, TITLE, save
from nfbench.record import find_root
from nfbench.stamp import stamp
from nfbench.verdict import Entry

INCHES = (4.2, 3.4)  # one panel
RATE = "samples_per_second"
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
LEAST = 1e-3  # nats of a divergence from which on its axis is logarithmic
DISTANCES = 5, 12, 20  # points from a mark to its label: the first that fits


@dataclass(frozen=True)
class Mark:
    """A row in a panel: what a sample costs, our number and its error."""

    label: str
    color: str
    cost: float
    value: float
    error: float


Labels = dict[Annotation, Mark]


def draw(table_name: str, root: Path | None = None) -> Path | None:
    """Draw results/<table>_speed.png; None if no run of the table has been measured.

    A row of panels for each column of the table that has a measured run: on the left milliseconds
    a sample at the best size of batch, on the right the passes of the networks that a sample
    waits for, of all runs with an audit. Stale runs are left out, and on the left those that were
    not measured under the conditions of the most.
    """
    root = root or find_root()
    view = tables.build(table_name, root)
    shown = [e for e in view.entries if e.ours is not None and e.verdict != "stale"]
    where, together = alike((r for entry in shown for r in entry.records), RATE)
    measured = {record.cell for record in together}
    columns = {cell: column for cell, column in view.table.columns.items() if cell in measured}
    if not columns:
        return None
    width, height = INCHES
    figure = Figure(figsize=(2 * width, height * len(columns) + 0.7), layout="constrained")
    labels: Labels = {}
    for axes, (cell, column) in zip(
        figure.subplots(len(columns), 2, squeeze=False), columns.items(), strict=True
    ):
        entries = [entry for entry in shown if entry.experiment.cell == cell]
        timed = [mark(e, cost) for e in entries if (cost := cost_of(e, where)) is not None]
        counted = [mark(e, n) for e in entries if (n := passes_of(e)) is not None]
        labels |= fill(axes[0], column, timed) | fill(axes[1], column, counted)
        axes[0].set_xscale("log")
        axes[1].set_xscale("symlog", linthresh=1, linscale=0.5)
        axes[1].xaxis.set_major_formatter("{x:g}")
        axes[1].set_xlim(-0.5, 3 * max(1, axes[1].dataLim.xmax))
        axes[0].set_xlabel("milliseconds a sample, at the best size of batch", fontsize=LABEL)
        axes[1].set_xlabel("passes of the networks a sample, one after another", fontsize=LABEL)
    figure.supxlabel(caption(shown, where), fontsize=LABEL)
    title = f"{view.table.title}: accuracy against the cost of a sample"
    add_legend(figure, title, {family_of(entry.experiment) for entry in shown})
    place_all(figure, labels)
    path = root / "results" / f"{table_name}_speed.png"
    return save(figure, path, 130, stamp(table_name, root, speeds=True))


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
    _, color = family_of(entry.experiment)
    error = entry.points if entry.seeds is None else entry.seeds
    value = 0.0 if entry.ours is None else entry.ours
    return Mark(entry.experiment.title, color, cost, value, error or 0.0)


def cost_of(entry: Entry, where: str) -> float | None:
    """Milliseconds a sample, by the mean of the rates measured under these conditions."""
    rates = [r.speed[RATE] for r in entry.records if r.speed.get(RATE) and conditions(r) == where]
    return 1000 / fmean(rates) if rates else None


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


def fill(axis: Axes, column: Column, marks: Sequence[Mark]) -> Labels:
    """Points with their errors, better upwards; their labels, which are still to be placed.

    Divergences, of which good ones differ by their orders of magnitude, have a logarithmic axis.
    """
    labels: Labels = {}
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
        place = each.cost, each.value
        label = axis.annotate(each.label, place, fontsize=LABEL, color=each.color)
        labels[label] = each
    axis.margins(0.15, 0.12)
    if column.metric.endswith("kl"):
        axis.set_yscale("symlog", linthresh=LEAST, linscale=0.5)
        axis.yaxis.set_major_formatter("{x:g}")
    if column.direction == "lower":
        axis.invert_yaxis()
    metric = f"{column.heading}: {column.metric.removeprefix('-')}"
    axis.set_ylabel(f"{metric}, {column.unit}\nbetter →", fontsize=LABEL)
    axis.tick_params(labelsize=LABEL, length=2)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[:].set(color=FRAME)
    return labels


def add_legend(figure: Figure, title: str, families: Collection[tuple[str, str]]) -> None:
    """A title and the colors of the families that there are, above the panels."""
    known = [(name, color) for name, (color, _) in FAMILIES.items()]
    handles = [
        Line2D([], [], color=color, marker="o", linestyle="", markersize=4, label=name)
        for name, color in [*known, NO_FAMILY]
        if (name, color) in families
    ]
    figure.legend(
        handles=handles,
        title=title,
        title_fontsize=TITLE,
        fontsize=LABEL,
        frameon=False,
        loc="outside upper center",
        ncols=len(handles),
    )


def caption(shown: Sequence[Entry], where: str) -> str:
    """On what the times were taken, who has others, and what the bars mean."""
    left = [e for e in shown if alike(e.records, RATE)[1] and cost_of(e, where) is None]
    others = f" (measured otherwise and left out: {len(left)})" if left else ""
    return (
        f"Times: {where}{others}. Bars: standard deviation over seeds, "
        "of one seed the ± over test points."
    )


def place_all(figure: Figure, labels: Labels) -> None:
    """Put each label where it covers the least: of marks, other labels and beyond the edge."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    for axis in figure.axes:
        own = [label for label in labels if label.axes is axis]
        taken = [around(axis, labels[label]) for label in own]
        for label in own:
            place(label, axis.get_window_extent(), taken)
            taken.append(label.get_window_extent())


def around(axis: Axes, mark: Mark) -> Bbox:
    """What a mark and its error cover, in pixels."""
    ends = [(mark.cost, mark.value + sign * mark.error) for sign in (-1, 1)]
    (x, low), (_, high) = axis.transData.transform(ends)
    return Bbox.from_extents(x - 4, min(low, high) - 4, x + 4, max(low, high) + 4)


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
