"""Ours less the paper's, for every number of a published table. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median_low

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from nfbench import tables
from nfbench.catalog import Column
from nfbench.errors import UsageError
from nfbench.figures import FRAME, LABEL, TITLE, save
from nfbench.record import find_root
from nfbench.stamp import stamp
from nfbench.verdict import Entry, metric
from nfbench.wording import double_dagger, number

WIDTH, MARGIN, ROW = 6.5, 1.1, 0.24  # inches
COLORS = {"reproduced": "tab:green", "better": "tab:blue", "short": "tab:red"}
OTHER = "tab:gray"
FAR = 8  # medians of all gaps with their errors: what is farther off is told at the edge


def draw(table_name: str, root: Path | None = None) -> Path:
    """Draw results/<table>_gap.png: a panel for each column with numbers of both.

    Raises:
        UsageError: the table publishes nothing, or no cell of it has a record.
    """
    root = root or find_root()
    view = tables.build(table_name, root)
    panels: dict[str, list[Entry]] = {}
    for entry in view.entries:
        if entry.gap is not None:
            panels.setdefault(entry.experiment.cell, []).append(entry)
    if not panels:
        raise UsageError(
            f"{table_name}: expected numbers beside published ones, got none; "
            f"run some first: nfbench reproduce {table_name}"
        )
    sizes = [len(entries) for entries in panels.values()]
    height = ROW * sum(sizes) + MARGIN * len(panels)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[n + 1.5 for n in sizes])
    for axis, (cell, entries) in zip(axes[:, 0], panels.items(), strict=True):
        fill(axis, view.table.columns[cell], entries)
    used = {verdict_of(entry) for entries in panels.values() for entry in entries}
    add_legend(figure, view.table.title, used)
    return save(figure, root / "results" / f"{table_name}_gap.png", 150, stamp(table_name, root))


def verdict_of(entry: Entry) -> str:
    """The verdict, without its reason."""
    return entry.verdict.partition(":")[0]


def fill(axis: Axes, column: Column, entries: Sequence[Entry]) -> None:
    """A column's rows from above: the gap, its error, each seed, and the paper's own error."""
    reaches = [reach(entry, column) for entry in entries]
    far = FAR * median_low(reaches)
    limit = 1.1 * max(each for each in reaches if each <= far) or 1.0
    axis.set_xlim(-limit, limit)
    for y, entry in enumerate(entries):
        row(axis, y, entry, column, inside=reaches[y] <= far)
    axis.axvline(0, color="black", linewidth=0.6)
    axis.set_ylim(len(entries) - 0.4, -0.6)
    axis.set_yticks(range(len(entries)), [e.experiment.title for e in entries], fontsize=LABEL)
    axis.tick_params(labelsize=LABEL, length=2)
    axis.set_xlabel(f"ours less the paper's, {column.unit}", fontsize=LABEL)
    axis.set_title(f"{column.heading} ({column.direction} is better)", fontsize=TITLE)
    axis.spines[:].set(color=FRAME, linewidth=0.5)


def seeds_of(entry: Entry, column: Column) -> list[float]:
    """The gap of each seed."""
    reported = entry.experiment.reported
    assert reported is not None
    return [metric(record, column.metric) - reported.value for record in entry.records]


def reach(entry: Entry, column: Column) -> float:
    """How far from zero a row is drawn: the gap with its error, and every seed."""
    assert entry.gap is not None
    return max(abs(entry.gap) + (entry.points or 0.0), *map(abs, seeds_of(entry, column)))


def row(axis: Axes, y: int, entry: Entry, column: Column, *, inside: bool) -> None:
    """One row; a mean that is far off is an arrow at the edge with its number."""
    reported = entry.experiment.reported
    assert reported is not None and entry.gap is not None
    if reported.uncertainty:
        axis.barh(y, 2 * reported.uncertainty, left=-reported.uncertainty, height=0.7, color=FRAME)
    text = f"{number(column, entry.ours)}{double_dagger(entry)} ({number(column, reported.value)})"
    axis.annotate(text, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=LABEL)
    color, limits = COLORS.get(verdict_of(entry), OTHER), axis.get_xlim()
    if inside:
        axis.errorbar(
            entry.gap, y, xerr=entry.points, fmt="o", color=color, markersize=4, capsize=2
        )
    else:
        far = entry.gap > 0
        axis.plot(limits[far], y, "<>"[far], color=color, markersize=5, clip_on=False)
    if entry.n_seeds > 1:
        seeds = [gap for gap in seeds_of(entry, column) if limits[0] < gap < limits[1]]
        axis.plot(seeds, [y + 0.22] * len(seeds), "|", color=color, markersize=4)


def add_legend(figure: Figure, title: str, used: set[str]) -> None:
    """What the marks mean, under the title."""
    known = [name for name in COLORS if name in used] + sorted(used - set(COLORS))
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=COLORS.get(name, OTHER), marker="o", ms=4, linestyle="", label=name)
        for name in known
    ]
    handles += [
        Line2D([], [], color="black", linewidth=1, label="± test points"),
        Line2D([], [], color="black", marker="|", markersize=4, linestyle="", label="a seed"),
        Patch(color=FRAME, label="the paper's ±"),
    ]
    figure.suptitle(f"{title}: ours less the paper's", fontsize=TITLE + 1)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=6, fontsize=LABEL, frameon=False
    )
