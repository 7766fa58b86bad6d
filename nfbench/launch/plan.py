"""Which cells of a table are missing, and the command that makes each. Imports no torch."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nfbench import record
from nfbench.catalog import Table, load_table
from nfbench.config import Experiment, resolve
from nfbench.errors import UsageError
from nfbench.settings import hint

DONE, FAILED, STALE = "done", "failed", "stale"
STARTED, MISSING = "started", "missing"


@dataclass(frozen=True)
class Job:
    """One cell of a table with one seed, and how far it is."""

    experiment: Experiment
    state: str
    root: Path

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return record.run_dir(self.experiment, self.root) / "log.txt"

    @property
    def name(self) -> str:
        """table/row/cell/seed."""
        e = self.experiment
        return f"{e.table}/{e.row}/{e.cell}/{e.seed}"

    @property
    def place(self) -> str:
        """Its run's folder, from runs/ on: its name, and of overrides their hash."""
        return f"{self.name.rpartition('/')[0]}/{record.run_dir(self.experiment, self.root).name}"


def plan(
    table_name: str,
    *,
    rows: Sequence[str] = (),
    cells: Sequence[str] = (),
    seeds: Iterable[int] = (0,),
    overrides: Sequence[str] = (),
    root: Path | None = None,
) -> list[Job]:
    """Every cell of a table, or of the rows and cells named, with its state; in the table's order.

    Raises:
        UsageError: if a table, row or cell is unknown.
    """
    root = root or record.find_root()
    table = load_table(table_name, root)
    check_names("row", rows, table.rows, table_name)
    check_names("cell", cells, table.columns, table_name)
    seeds = tuple(seeds)
    return [
        job
        for row in rows or table.rows
        for cell in table.cells(row)
        if not cells or cell in cells
        for job in of_cell(table, row, cell, seeds, overrides)
    ]


def of_cell(
    table: Table, row: str, cell: str, seeds: Iterable[int], overrides: Sequence[str] = ()
) -> list[Job]:
    """One cell of a row with each of some seeds; its settings are resolved once."""
    experiment = resolve(table, row, cell, overrides=overrides)
    with_seeds = [replace(experiment, seed=seed) for seed in seeds]
    return [Job(each, state(each, table.root), table.root) for each in with_seeds]


def to_run(jobs: Sequence[Job], only: Collection[str] | None = None) -> list[Job]:
    """The jobs without a result, good or bad; of those named if `only` is given."""
    chosen = [job for job in jobs if only is None or job.name in only]
    return [job for job in chosen if job.state not in (DONE, FAILED, STALE)]


def check_names(kind: str, names: Sequence[str], known: Iterable[str], table: str) -> None:
    """Refuse a name that the table does not have."""
    for name in names:
        if name not in known:
            raise UsageError(
                f"unknown {kind} {name!r} of {table}{hint(name, list(known), kind + 's')}"
            )


def state(experiment: Experiment, root: Path) -> str:
    """How far an experiment is, told by its files."""
    path = record.record_path(experiment, root)
    if path.exists():
        found = record.read(path)
        if experiment.matches(found):
            return FAILED if found.status == "failed" else DONE
        if found.status == "done":
            return STALE
    return STARTED if (record.run_dir(experiment, root) / "last.pt").exists() else MISSING
