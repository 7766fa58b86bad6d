"""The leaderboard: a line for each cell of the tables, from the records. Imports no torch."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.box
import rich.table

from nfbench import tables
from nfbench.catalog import table_names
from nfbench.conditions import alike
from nfbench.errors import UsageError
from nfbench.parts import all_parts
from nfbench.record import Record, find_root, run_dir
from nfbench.tables import View
from nfbench.verdict import Entry, mean_of
from nfbench.wording import remark

Line = dict[str, str | float | None]
TEXT = (  # columns of text; in the others are numbers or nothing
    "table",
    "model",
    "data",
    "metric",
    "unit",
    "better",
    "verdict",
    "likelihood",
    "audit",
    "remarks",
    "speed on",
    "hardware",
    "commit",
    "runs",
)
SHOWN = (
    "model",
    "data",
    "published",
    "ours",
    "± seeds",
    "gap",
    "verdict",
    "audit",
    "nfe",
    "samples/s",
)


def views(
    names: Sequence[str] = (), *, every: bool = False, root: Path | None = None
) -> list[View]:
    """The tables named, or all; of all those with a published number if there is no name.

    Raises:
        UsageError: an unknown table, or no table with a number of ours.
    """
    root = root or find_root()
    started = [name for name in table_names(root) if (root / "results" / name).is_dir()]
    found = [tables.build(name, root) for name in names or started]
    if not names:
        found = [view for view in found if every or view.published]
    if not found:
        raise UsageError(
            "leaderboard: expected tables with records, got none; run some cells first"
        )
    return found


def lines(view: View, link: Callable[[Record], str]) -> list[Line]:
    """A line for each cell, by model and data; the same of the same records.

    The +- are the published one, ours over test points and ours over seeds; `link` tells where a
    run is to be found. Remarks are a reduced budget, outliers and deviations. Samples in a second
    are at the best size of batch, which `nfbench speed` finds, on what is named beside them; the
    hardware is that of the training, and of a resumed run every commit and device is named.
    """
    found = [line(entry, link) for entry in view.entries]
    return sorted(found, key=lambda each: (str(each["model"]), str(each["data"])))


def line(entry: Entry, link: Callable[[Record], str]) -> Line:
    """What is said of a cell."""
    experiment, column, records = entry.experiment, entry.column, entry.records
    reported = experiment.reported
    parts = [part for record in records for part in all_parts(record.provenance)]
    return {
        "table": experiment.table,
        "model": experiment.row,
        "data": experiment.cell,
        "metric": column.metric,
        "unit": column.unit,
        "better": column.direction,
        "published": reported.value if reported else None,
        "published ±": reported.uncertainty if reported else None,
        "ours": entry.ours,
        "± test points": entry.points,
        "± seeds": entry.seeds,
        "seeds": entry.n_seeds,
        "gap": entry.gap,
        "verdict": entry.verdict,
        "likelihood": entry.likelihood,
        "audit": entry.audited.finding if entry.audited else "",
        "remarks": remark(entry),
        "nfe": mean_of(records, "nfe/evaluation"),
        "nfe of samples": mean_of(records, "nfe/sampling"),
        "samples/s": mean_of(records, "speed/samples_per_second"),
        "speed on": alike(records, "samples_per_second")[0],
        "parameters": mean_of(records, "model/n_parameters"),
        "hardware": listed(str(part["device"] or "unknown") for part in parts),
        "commit": listed(commit(part) for part in parts),
        "runs": " ".join(link(record) for record in records),
    }


def listed(words: Iterable[str]) -> str:
    """Words, each once, sorted."""
    return ", ".join(sorted(set(words)))


def commit(part: Mapping[str, Any]) -> str:
    """The commit that a part of a run was made with; a + says that its sources were changed."""
    git = part["git"] or "unknown"
    return f"{git}+" if part["dirty"] else str(git)


def place(record: Record) -> str:
    """Where a run's files are, below the root."""
    return run_dir(record, Path()).as_posix()


def terminal(view: View, found: Sequence[Mapping[str, Any]]) -> rich.table.Table:
    """The lines of a table, to the decimals of its columns."""
    decimals = {cell: column.decimals for cell, column in view.table.columns.items()}
    shown = rich.table.Table(title=view.table.title, box=rich.box.SIMPLE)
    for name in SHOWN:
        shown.add_column(name, justify="left" if name in TEXT else "right", overflow="fold")
    for each in found:
        shown.add_row(*(text(name, each[name], decimals[each["data"]]) for name in SHOWN))
    return shown


def text(name: str, value: Any, decimals: int) -> str:
    """A value of a line as it is printed."""
    if value is None or isinstance(value, str):
        return value or ""
    if name in ("nfe", "samples/s"):
        return f"{value:,.0f}"
    return f"{value:{'+' if name == 'gap' else '-'}z.{decimals}f}"


def scalars(found: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """What charts compare, as `lb/TABLE/DATA/MODEL/...`: ours, the published one and the gap."""
    for each in found:
        for name in ("ours", "published", "gap"):
            if each[name] is not None:
                yield f"lb/{each['table']}/{each['data']}/{each['model']}/{name}", each[name]
