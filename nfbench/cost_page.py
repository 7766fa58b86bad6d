"""The page of costs, rendered from records and measurements and never typed: results/costs.md.

Imports no torch.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from nfbench.archive import records
from nfbench.catalog import Table, load_table, table_names
from nfbench.config import resolve
from nfbench.costs import TIMED, WARM_UP, Cost, Costs, files, read, settings_hash
from nfbench.parts import all_parts
from nfbench.record import Record, find_root, write_atomic
from nfbench.rendering import compare
from nfbench.units import duration, memory

MEANING = f"""\
- Extrapolated: on random data of the shape and the kind of the real ones, in a process apart, on a
  CPU in a new one for each cell, up to {TIMED} optimizer steps of the row's batch size are timed,
  after {WARM_UP} that are not, and as many evaluations of a batch; where they take seconds, fewer
  after fewer, down to the second of two steps and to one evaluation. The medians are multiplied by
  the steps of one run, and by the rows of its validations and its test. Starting, reading data,
  audits and pictures are left out. Cells of one model on data of one shape and size are measured
  once.
- Solving an ODE takes more evaluations the longer it is trained, so the times of continuous flows
  are lower bounds.
- ≥: some cells end by early stopping alone; they count the soonest end, patience + 1 validations.
  Those that end by early stopping or at a last step count all steps.
- Memory: on a GPU the most that was allocated, of which the workspace of cuBLAS (tens of MiB) is a
  part and torch's own context none; on a CPU the most that the process held, libraries included.
  That of a run is the most at any time, with the data and with evaluations in large batches; the
  other is that of training steps alone, on a CPU in a process that was forked and holds less of
  the libraries."""
WORDS = ("table", "row", "cell", "longest cell", "largest cell", "device")
NO_COSTS = "None was measured yet: `nfbench costs --measure`."
NO_RUNS = "There is no record with a number yet."


def page_path(root: Path) -> Path:
    """Where the page stands."""
    return root / "results" / "costs.md"


def is_kept(root: Path | None = None) -> bool:
    """Whether there is a page, or something measured that belongs on one."""
    root = root or find_root()
    return page_path(root).exists() or bool(files(root))


def render(root: Path | None = None) -> Path:
    """Writes results/costs.md."""
    root = root or find_root()
    path = page_path(root)
    write_atomic(path, markdown(root))
    return path


def check(root: Path | None = None) -> None:
    """Compares results/costs.md with what the records and the measurements give.

    Raises:
        UsageError: they differ, or a file cannot be read; the message is the difference.
    """
    root = root or find_root()
    compare(page_path(root), markdown(root), root, "nfbench costs")


def markdown(root: Path) -> str:
    """The page: what its numbers are, one run of each cell by table, and all records."""
    tables = [load_table(name, root) for name in table_names(root)]
    costs = [read(path) for path in files(root)]
    blocks = [
        "# What runs cost",
        "Seconds and memory of one process.",
        MEANING,
        "## One run of each cell, extrapolated",
        *(extrapolated(tables, costs) if costs else [NO_COSTS]),
        "## Runs that were made",
        *(list(made(tables, costs)) or [NO_RUNS]),
        "Rendered by `nfbench costs` from the records, and from what `nfbench costs --measure` "
        "has kept in results/costs/.",
    ]
    return "\n\n".join(blocks) + "\n"


def extrapolated(tables: list[Table], costs: list[Costs]) -> Iterator[str]:
    """For each device a heading, where its numbers come from, its grid, and what has none."""
    today = {table.name: dict(settings_of(table)) for table in tables}
    for each in costs:
        valid = {
            name: cost
            for settings in today.values()
            for name, cost in each.cells.items()
            if name in settings and each.knows(name, settings[name])
        }
        yield f"### {machine(each.device, each.threads)}"
        yield source(valid)
        rows = [row(name, settings, valid) for name, settings in today.items()]
        everything = {
            name: hash_ for settings in today.values() for name, hash_ in settings.items()
        }
        yield grid([*rows, row("all", everything, valid)])
        if lines := [f"- {name}: {cost.failure}" for name, cost in valid.items() if cost.failure]:
            yield "Without a number:"
            yield "\n".join(lines)


def settings_of(table: Table) -> Iterator[tuple[str, str]]:
    """The cells of a table with the hashes of their settings."""
    for name in table.rows:
        for cell in table.cells(name):
            yield f"{table.name}/{name}/{cell}", settings_hash(resolve(table, name, cell).config())


def grid(rows: list[dict[str, str]]) -> str:
    """A table of Markdown from rows, heading -> text: words on the left, numbers on the right."""
    align = ["left" if key in WORDS else "right" for key in rows[0]]
    return tabulate(rows, "keys", "github", colalign=align, disable_numparse=True)


def row(name: str, settings: dict[str, str], valid: dict[str, Cost]) -> dict[str, str]:
    """The line of a table, heading -> text, by those of its cells that have a number."""
    found = {cell: valid[cell] for cell in settings if cell in valid and valid[cell].timing}
    line = {"table": name, "cells": f"{len(found)} of {len(settings)}"}
    headings = ["one run of each", "longest cell", "its time", "largest cell", "its memory"]
    if not found:
        return line | dict.fromkeys(headings, "")
    totals = {cell: cost.total for cell, cost in found.items()}
    peaks = {cell: cost.timing.peak_memory_bytes for cell, cost in found.items() if cost.timing}
    longest, largest = (max(each, key=lambda cell: each[cell]) for each in (totals, peaks))
    texts = [
        bounded(sum(totals.values()), *found.values()),
        short(longest, name),
        bounded(totals[longest], found[longest]),
        short(largest, name),
        memory(peaks[largest]),
    ]
    return line | dict(zip(headings, texts, strict=True))


def short(cell: str, table: str) -> str:
    """The name of a cell, without its table where that is said already."""
    return cell.removeprefix(f"{table}/")


def bounded(seconds: float, *costs: Cost) -> str:
    """Seconds in words, as a lower bound if early stopping alone ends one of the runs."""
    least = any(cost.timing and cost.timing.ends == "patience" for cost in costs)
    return f"{'≥ ' * least}{duration(seconds)}"


def machine(device: str, threads: int) -> str:
    """A device and the threads beside it."""
    return f"{device}, {threads} thread{'s' * (threads > 1)}"


def source(valid: dict[str, Cost]) -> str:
    """When, of which commits and with which torch something was measured."""
    origins = [cost.provenance for cost in valid.values()]
    days = sorted({each["measured"][:10] for each in origins})
    commits = sorted({commit(each["git"], each["dirty"]) for each in origins})
    torch = sorted({each["versions"]["torch"] for each in origins})
    if not origins:
        return "All that was measured here is of other settings than those of today."
    when = " to ".join(dict.fromkeys([days[0], days[-1]]))
    return f"Measured {when}, torch {', '.join(torch)}, at {', '.join(commits)}."


def commit(git: str | None, dirty: bool | None) -> str:
    """A commit in words."""
    if git is None:
        return "an unknown commit"
    return f"commit {git}{' with changes' if dirty else ''}"


def made(tables: list[Table], costs: list[Costs]) -> Iterator[str]:
    """For each table that is kept in git, a heading and its records with a number."""
    for table in tables:
        found = [each for each in records(table.name, table.root) if each.status == "done"]
        if table.committed and found:
            yield f"### {table.name}"
            yield grid([line(each, costs) for each in found])


def line(record: Record, costs: list[Costs]) -> dict[str, str]:
    """A record, heading -> text, beside the estimate of as many steps on the same device."""
    where, steps = record.provenance, record.model["steps"]
    cost = estimate_of(record, costs)
    timing = cost.timing if cost else None
    return {
        "row": record.row,
        "cell": record.cell,
        "seed": str(record.seed),
        "steps": str(steps),
        "time": duration(where["seconds"]),
        "extrapolated": duration(timing.seconds(steps)) if timing else "",
        "memory": memory(where["peak_memory_bytes"]),
        "of training, extrapolated": memory(timing.peak_memory_bytes) if timing else "",
        "device": "; ".join(machines(record)),
    }


def machines(record: Record) -> list[str]:
    """On what a run was made, each once: of a run that was resumed perhaps on several."""
    return list(dict.fromkeys(map(machine_of, all_parts(record.provenance))))


def machine_of(part: Mapping[str, Any]) -> str:
    """On what a part of a run was made."""
    if part["device"] is None:
        return "unknown"
    several = f"{part['world_size']} × " * (part["world_size"] > 1)
    return several + machine(part["device"], part["threads"]) + ", compiled" * part["compiled"]


def estimate_of(record: Record, costs: list[Costs]) -> Cost | None:
    """What was measured of these settings on this device; nothing of one on several."""
    where = record.provenance
    if where["world_size"] > 1 or where["compiled"] or len(machines(record)) > 1:
        return None
    name = f"{record.table}/{record.row}/{record.cell}"
    settings = settings_hash(record.experiment["config"])
    for each in costs:
        same = (each.device, each.threads) == (where["device"], where["threads"])
        if same and each.knows(name, settings):
            return each.cells[name]
    return None
