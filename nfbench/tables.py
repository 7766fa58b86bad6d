"""Tables, built from the records and never typed: Markdown, LaTeX, CSV and the terminal."""

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path

import rich.box
import rich.table
from tabulate import LATEX_ESCAPE_RULES, tabulate

from nfbench.archive import records
from nfbench.catalog import Table, load_table
from nfbench.conditions import alike
from nfbench.config import resolve
from nfbench.data import DATA
from nfbench.record import Record, find_root
from nfbench.soundness import MASS_TOLERANCE, SOLVER_ERROR, TOLERANCE
from nfbench.verdict import Entry, judge
from nfbench.wording import (
    DAGGER,
    DOUBLE_DAGGER,
    MARKS,
    brief,
    dagger,
    double_dagger,
    line,
    mark,
    remarks,
    summed_up,
    warned,
)

# Headings of columns that hold no numbers.
WORDS = ("row", "cell", "verdict", "likelihood", "audit", "errors", "samples", "passes", "notes")


@dataclass(frozen=True)
class View:
    """A table and its entries: row by row, or where nothing is published best first by column."""

    table: Table
    entries: tuple[Entry, ...]

    @property
    def published(self) -> bool:
        """Whether any cell has a published number."""
        return any(entry.experiment.reported for entry in self.entries)

    @property
    def notes(self) -> tuple[str, ...]:
        """Every deviation and reduced budget, each once, in the order of the table."""
        return tuple(dict.fromkeys(note for entry in self.entries for note in remarks(entry)))


def build(name: str, root: Path | None = None) -> View:
    """Judges every cell of a table by the records there are.

    Raises:
        UsageError: a table, row or record that cannot be read.
    """
    root = root or find_root()
    table = load_table(name, root)
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records(name, root):
        found.setdefault((record.row, record.cell), []).append(record)
    fingerprints = {name: dataset.known for name, dataset in DATA.items()}
    entries = [
        judge(
            resolve(table, row, cell),
            table.columns[cell],
            found.get((row, cell), []),
            multiple=table.ours_multiple,
            same_points=table.uncertainty.same_points,
            fingerprints=fingerprints,
            extra=table.extra,
        )
        for row in table.rows
        for cell in table.cells(row)
    ]
    view = View(table, tuple(entries))
    return view if view.published else View(table, tuple(sorted(entries, key=rank(table))))


def rank(table: Table) -> Callable[[Entry], tuple[int, float]]:
    """A sort key for entries: by column, then best first, those without a number last."""
    columns = list(table.columns)

    def key(entry: Entry) -> tuple[int, float]:
        sign = -1 if entry.column.direction == "higher" else 1
        value = inf if entry.ours is None else sign * entry.ours
        return columns.index(entry.experiment.cell), value

    return key


def markdown(view: View) -> str:
    """The page of a table: what it shows, an overview, every cell, and the notes."""
    table = view.table
    notes = [f"{i}. {note}" for i, note in enumerate(view.notes, 1)]
    failures = [
        f"- {e.experiment.row}/{e.experiment.cell}: {failure}"
        for e in view.entries
        for failure in e.failures
    ]
    blocks = [
        f"# {table.title}",
        heading(table),
        "\n".join(f"- {line}" for line in meaning(view)),
        grid(overview(view), "github"),
        legend(view),
        grid(lines(view), "github"),
        *(["Notes:", "\n".join(notes)] if notes else []),
        *(["Failed runs:", "\n".join(failures)] if failures else []),
        f"Rendered from the records by `nfbench table {table.name}`. To make the records again:",
        f"    nfbench reproduce {table.name}",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def headline(view: View) -> str:
    """A table in short, for another page: what it is, its overview and what the marks mean."""
    table = view.table
    page = f"[results/{table.name}.md](results/{table.name}.md)"
    what = f"{heading(table)} In full: {page}."
    return "\n\n".join([what, grid(overview(view), "github"), legend(view)])


def latex(view: View) -> str:
    """Every cell as a LaTeX tabular with booktabs rules; below it the marks and the notes."""
    rows = [
        shown | {"ours": warned(entry, shown["ours"])}
        for entry, shown in zip(view.entries, lines(view), strict=True)
    ]
    escapes = str.maketrans(LATEX_ESCAPE_RULES)
    items = "".join(f"\\item {note.translate(escapes)}\n" for note in view.notes)
    notes = f"\\begin{{enumerate}}\n{items}\\end{{enumerate}}" if items else ""
    blocks = [grid(rows, "latex_booktabs"), ", ".join(cautions(view)), notes]
    return "\n\n".join(filter(None, blocks)) + "\n"


def grid(rows: list[dict[str, str]], style: str) -> str:
    """Rows (heading -> text) in a format of tabulate: words on the left, numbers on the right."""
    align = ["left" if key in ("", *WORDS) else "right" for key in (rows[0] if rows else ())]
    return tabulate(
        rows, headers="keys", tablefmt=style, colalign=align or None, disable_numparse=True
    )


def csv_text(view: View) -> str:
    """Every cell with its numbers and notes in full."""
    rows = lines(view, exact=True)
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def terminal(view: View) -> rich.table.Table:
    """The overview, with what its marks mean, the kind of likelihood and where the notes are."""
    rows = overview(view)
    kinds = sorted({entry.likelihood for entry in view.entries if entry.likelihood})
    likelihood = f"Likelihood: {'; '.join(kinds) or 'none yet'}."
    notes = f"Notes: results/{view.table.name}.md." if view.notes else ""
    caption = ". ".join(filter(None, [legend(view), f"{likelihood} {notes}".strip()]))
    table = rich.table.Table(title=view.table.title, box=rich.box.SIMPLE, caption=caption)
    for key in rows[0] if rows else ():
        table.add_column(key, justify="right" if key else "left", overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    return table


def heading(table: Table) -> str:
    """Authors, linked title and place of the published table; of our own table the source."""
    paper = table.paper
    if paper.title is None:
        return table.source or ""
    title = f"[{paper.title}]({paper.url})" if paper.url else paper.title
    return ", ".join(filter(None, [f"{paper.authors} ({paper.year})", title, table.source])) + "."


def on(view: View, name: str) -> str:
    """Under which conditions a further number of the speed was measured; nothing of others."""
    section, _, key = name.removeprefix("-").partition("/")
    if section != "speed":
        return ""
    found = sorted({alike(entry.records, key)[0] for entry in view.entries} - {""})
    return f", on {'; '.join(found)}" if found else ""


def meaning(view: View) -> Iterator[str]:
    """What the numbers are, and what each +- means."""
    groups: dict[str, list[str]] = {}
    for column in view.table.columns.values():
        what = f"`{column.metric}` in {column.unit}, {column.direction} is better"
        groups.setdefault(what, []).append(column.heading)
    for what, headings in groups.items():
        yield f"{', '.join(headings)}: {what}."
    for name, extra in view.table.extra.items():
        unit = f" in {extra.unit}" if extra.unit else ""
        yield f"{extra.heading}: `{name}`{unit}{on(view, name)}."
    if view.table.extra and len(view.table.columns) > 1:
        yield "Of several cells the first table has the least and the greatest of such a number."
    yield f"Ours is the mean over the seeds. ± test points: {view.table.uncertainty.ours}."
    yield "± seeds: the standard deviation over the seeds, where there is more than one."
    if view.published:
        yield f"The paper's ±: {view.table.uncertainty.published or 'none is given'}."
        same = view.table.uncertainty.same_points
        errors = "paper's ± (ours is over the same test points)" if same else "combined ±"
        yield f"Reproduced: the gap, ours less the paper's, is within the {errors}{band(view)}."
        yield "Inconclusive: it is not, but within that and our error over the seeds combined."
    yield "Stale: the settings or the data have changed since the run."
    yield (
        "Audit ok: log-determinant, inverse and, where it was looked at, the base are right to "
        f"{TOLERANCE:g} in float64 (of ODEs to {SOLVER_ERROR} times the sum of their tolerances), "
        "samples are finite, and in the plane the density integrates to 1 within "
        f"{MASS_TOLERANCE:g}."
    )
    yield (
        "Errors: log-determinant against autograd (float64) / inverse of the image (float32). "
        "Samples: integral of the density in the plane / Kolmogorov-Smirnov distance between the "
        f"log-likelihoods of samples and of data, as many of each{by_chance(view)}. "
        "Passes: network evaluations that wait for each other, for a density / a sample."
    )


def by_chance(view: View) -> str:
    """How far the samples of a sound model are from the data in one of twenty audits, in words."""
    audits = [record.audit for entry in view.entries for record in entry.records]
    noises = [audit.get("sample_calibration_noise") for audit in audits]
    found = sorted({f"{noise:.2f}" for noise in noises if noise})
    return f"; by chance it reaches {' or '.join(found)}" if found else ""


def band(view: View) -> str:
    """The equivalence bands of the columns in words, those that are alike together."""
    groups: dict[str, list[str]] = {}
    for column in view.table.columns.values():
        if column.equivalence:
            size = f"{column.equivalence:g} {column.unit}"
            groups.setdefault(size, []).append(column.heading)
    if len(groups) == 1 and len(*groups.values()) == len(view.table.columns):
        return f", or no more than {next(iter(groups))}"
    sizes = [f"{size} ({', '.join(headings)})" for size, headings in groups.items()]
    return f", or no more than {', '.join(sizes)}" if sizes else ""


def legend(view: View) -> str:
    """The marks that the overview uses."""
    marks = {mark(entry): entry.verdict.partition(":")[0] for entry in view.entries}
    used = [f"{sign} {marks[sign]}" for sign in MARKS.values() if sign in marks]
    paper = "In brackets the paper's. " if view.published else ""
    return f"{paper}{', '.join([*used, *cautions(view)])}".strip()


def cautions(view: View) -> Iterator[str]:
    """The marks of what speaks against our numbers, as far as there are any."""
    if any(map(dagger, view.entries)):
        yield f"{DAGGER} without a sound audit"
    if any(map(double_dagger, view.entries)):
        yield f"{DOUBLE_DAGGER} a single test point carries the mean, see the notes"


def overview(view: View) -> list[dict[str, str]]:
    """Rows by columns, ours beside the paper's with the mark of the verdict."""
    shown = {(e.experiment.row, e.experiment.cell): e for e in view.entries}
    titles = {e.experiment.row: e.experiment.title for e in view.entries}
    return [
        {"": titles[row]}
        | {
            column.heading: brief(shown[row, cell]) if (row, cell) in shown else ""
            for cell, column in view.table.columns.items()
        }
        | summed_up([e for e in view.entries if e.experiment.row == row], view.table.extra)
        for row in view.table.rows
        if row in titles
    ]


def lines(view: View, *, exact: bool = False) -> list[dict[str, str]]:
    """One line a cell, heading -> text; `exact` for numbers and notes in full."""
    shown = partial(
        line, notes=view.notes, extra=view.table.extra, published=view.published, exact=exact
    )
    return [shown(entry) for entry in view.entries]
