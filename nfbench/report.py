"""One page of all results, which needs no network: tables, curves, pictures, where it is from.

Imports no torch.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from nfbench import tables
from nfbench.archive import faults
from nfbench.catalog import load_table, table_names
from nfbench.curve import read_curve
from nfbench.errors import UsageError
from nfbench.figures import draw_curves
from nfbench.parts import resumed
from nfbench.record import Record, find_root, run_dir, write_atomic
from nfbench.tables import View
from nfbench.verdict import Entry
from nfbench.wording import MARKS, remarks

TEMPLATE = "report.html.jinja"
PICTURES = {"": "Densities and samples", "_speed": "Accuracy against the cost of a sample"}
VERDICTS = (*MARKS, "measured")
HOW = ("command", "compiled", "device", "precision", "threads", "world_size")
FACTS = (*HOW, "seconds", "finished")


@dataclass(frozen=True)
class Cell:
    """What a table shows in a place, and the number or the word that it is sorted by."""

    text: str
    key: float | str


@dataclass(frozen=True)
class Line:
    """One entry of a table: its cells by heading, the class of its verdict, and its details."""

    cells: dict[str, Cell]
    verdict: str
    remarks: Sequence[str]
    runs: Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Picture:
    """An image as a data URI."""

    caption: str
    source: str


@dataclass(frozen=True)
class Section:
    """A table of the page."""

    view: View
    lines: Sequence[Line]
    pictures: Sequence[Picture]
    faults: Sequence[str] = field(default=())

    @property
    def meaning(self) -> Sequence[str]:
        """What its numbers are."""
        return [each.replace("`", "") for each in tables.meaning(self.view)]

    @property
    def has_records(self) -> bool:
        """Whether a record gave a number, failed, or is at fault."""
        return bool(self.faults) or any(e.n_seeds or e.failures for e in self.view.entries)

    @property
    def counts(self) -> dict[str, int]:
        """How many entries have each verdict, in the order of the marks."""
        found = [line.verdict for line in self.lines]
        return {verdict: found.count(verdict) for verdict in VERDICTS}


def write(names: Sequence[str] = (), output: Path | None = None, root: Path | None = None) -> Path:
    """Writes the page of the tables named, by default of all that have a record.

    Raises:
        UsageError: an unknown table, or no record at all.
    """
    root = root or find_root()
    sections = [section(name, root) for name in names or table_names(root)]
    shown = [s for s in sections if names or s.has_records]
    if not shown:
        raise UsageError("report: expected records in results/, got none; run a table first")
    path = output or root / "results" / "report.html"
    write_atomic(path, page(shown))
    return path


def page(sections: Sequence[Section]) -> str:
    """The HTML of some tables."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(
        sections=sections, marks=MARKS, verdicts=VERDICTS
    )


def section(name: str, root: Path) -> Section:
    """A table with its pictures, and what speaks against its records.

    One of records that cannot be read or judged has no lines, as they would lack some.
    """
    found = list(faults(name, root))
    try:
        view = tables.build(name, root)
    except UsageError as error:
        fault = str(error).replace(f"{root}/", "")
        found += [fault] * (fault not in found)
        view = View(load_table(name, root), ())
    shown, exact = tables.lines(view), tables.lines(view, exact=True)
    lines = [line_of(*each) for each in zip(view.entries, shown, exact, strict=True)]
    return Section(view, lines, list(pictures(view, root)), found)


def line_of(entry: Entry, shown: dict[str, str], exact: dict[str, str]) -> Line:
    """An entry as a line of the page: names in words, notes among the details."""
    words = {"row": entry.experiment.title, "cell": entry.column.heading}
    cells = {
        heading: Cell(words.get(heading, text), sort_key(words.get(heading, exact[heading])))
        for heading, text in shown.items()
        if heading != "notes"
    }
    verdict = entry.verdict.partition(":")[0]
    failures = [f"failed: {failure}" for failure in entry.failures]
    return Line(cells, verdict, [*remarks(entry), *failures], [facts(r) for r in entry.records])


def sort_key(text: str) -> float | str:
    """The number that a text is or ends in, as `10 / 10` does, else the text."""
    try:
        return float(text.rpartition(" / ")[2])
    except ValueError:
        return text


def facts(record: Record) -> dict[str, Any]:
    """Where a number is from: command, commit, machine, data, weights, audit."""
    origin = record.provenance
    changed = " with changes" if origin["dirty"] else ""
    earlier = resumed(origin)
    data = record.data
    return {
        "seed": record.seed,
        **{name.replace("_", " "): origin[name] for name in FACTS},
        "commit": f"{origin['git']}{changed}",
        **({"resumed": earlier} if earlier else {}),
        "versions": ", ".join(f"{k} {v}" for k, v in sorted(origin["versions"].items())),
        "data": f"{data['name']} from {data['source']}, {data['n_train']} training, "
        f"{data['n_val']} validation and {data['n_test']} test rows",
        "fingerprint": data["fingerprint"],
        "settings": record.experiment["config_hash"],
        "parameters": record.model["n_parameters"],
        "steps": f"{record.model['steps']}, best at {record.model['best_step']}",
        "metrics": numbers(record.metrics),
        "audit": numbers(record.audit),
    }


def numbers(values: dict[str, Any]) -> str:
    """Some numbers in one line."""
    return ", ".join(
        f"{name} {value:.6g}" for name, value in sorted(values.items()) if value is not None
    )


def pictures(view: View, root: Path) -> Iterator[Picture]:
    """The figures of a table in results/, and the curves of its runs that are here."""
    for suffix, caption in PICTURES.items():
        path = root / "results" / f"{view.table.name}{suffix}.png"
        if path.exists():
            yield Picture(caption, data_uri(path.read_bytes(), "image/png"))
    for cell, column in view.table.columns.items():
        curves = dict(curves_of([e for e in view.entries if e.experiment.cell == cell], root))
        if curves:
            figure = Figure(figsize=(5.2, 3.4), layout="constrained")
            draw_curves(figure.subplots(), curves, f"{column.heading}: validation (nats)")
            file = io.BytesIO()
            figure.savefig(file, format="svg", metadata={"Date": None})
            uri = data_uri(file.getvalue(), "image/svg+xml")
            yield Picture(f"Curves of {column.heading}", uri)


def curves_of(
    entries: Sequence[Entry], root: Path
) -> Iterator[tuple[str, list[dict[str, float]]]]:
    """The curves of the runs that are here, one a row: that of its first seed."""
    for entry in entries:
        if entry.records:
            curve = read_curve(run_dir(entry.records[0], root) / "curve.jsonl")
            if len(curve) > 1:
                yield entry.experiment.title, curve


def data_uri(content: bytes, kind: str) -> str:
    """A file inside a page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
