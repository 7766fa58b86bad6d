"""measure(tables): a short measurement of every cell, one after another.

Imports no torch itself.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from filelock import FileLock, Timeout
from rich.console import Console

from nfbench import record
from nfbench.catalog import load_table, table_names
from nfbench.config import Experiment, resolve
from nfbench.console import new_console
from nfbench.costs import LIMIT, Cost, Costs, Timing, path_of, read, settings_hash, write
from nfbench.data import DATA
from nfbench.data.energies import Energy
from nfbench.errors import UsageError
from nfbench.exits import INTERRUPTED
from nfbench.seal import config_hash

from .apart import ApartError, Worker
from .local import stopping
from .plan import check_names
from .reproduce import bar_of_cells

START_UP = 300.0  # seconds for a process to say where it is


@dataclass(frozen=True)
class Bench:
    """Where cells are measured: a device, CPU threads, and at most ``limit`` seconds for each.

    A GPU tells the memory of each cell alone; on a CPU it is that of a process, so each cell has
    one of its own.
    """

    root: Path
    device: str
    threads: int
    limit: float

    @property
    def log(self) -> Path:
        """Where the processes write what there is to say."""
        return self.root / "runs" / "costs" / "log.txt"

    @cached_property
    def here(self) -> dict[str, Any]:
        """The device, the versions and the commit; `UsageError` if there is no such device."""
        found = self.worker.call(describe, self.device, self.root, seconds=START_UP)
        return cast(dict[str, Any], found)

    @cached_property
    def worker(self) -> Worker:
        """The process that measures, and has imported what that needs."""
        return Worker(log=self.log, preload="nfbench.launch.estimate")

    @property
    def path(self) -> Path:
        """Where what is found is kept."""
        return path_of(self.here["device"], self.threads, self.root)

    def cost(self, experiment: Experiment) -> Cost:
        """Measure a cell, or say why it has no number."""
        found: dict[str, Any] = {"timing": None, "failure": None}
        if self.here["kind"] == "cpu":
            self.worker.end()
        try:
            found["timing"] = self.worker.call(
                time_stand_in, experiment, self.device, self.threads, seconds=self.limit
            )
        except ApartError as error:
            found["failure"] = str(error)
        origin = {key: self.here[key] for key in ("git", "dirty", "versions")}
        origin["measured"] = datetime.now(UTC).isoformat(timespec="seconds")
        return Cost(settings=settings_hash(experiment.config()), provenance=origin, **found)


def measure(
    targets: Sequence[str] = (),
    *,
    device: str = "auto",
    threads: int = 1,
    limit: float = LIMIT,
    again: bool = False,
    root: Path | None = None,
) -> bool:
    """Measure the cells of some tables, or of all, that are not measured yet on this device.

    A target is TABLE, TABLE/ROW or TABLE/ROW/CELL. Each cell is kept at once; what fails is kept
    with its reason, and tried again by the next call, last. Cells of which the same is computed
    are measured once. Never two at once, which would slow each other down. Tells whether all these
    cells have a number.

    Raises:
        UsageError: if a target or the device is unknown, or another process measures on it.
    """
    console, root = new_console(), root or record.find_root()
    targets = targets or table_names(root)
    jobs = {name: e for target in targets for name, e in cells_of(target, root)}
    bench = Bench(root, device, threads, limit)
    try:
        with FileLock(bench.log.with_name(f"{bench.path.stem}.lock"), blocking=False):
            known = measure_each(console, bench, jobs, again=again)
    except Timeout:
        raise UsageError(f"{bench.path}: another process is measuring for this file") from None
    except KeyboardInterrupt:
        console.print("interrupted; what was measured is kept. The same command goes on.")
        raise SystemExit(INTERRUPTED) from None
    finally:
        bench.worker.end()
    return all(known.cells[name].timing for name in jobs)


def measure_each(
    console: Console, bench: Bench, jobs: dict[str, Experiment], *, again: bool
) -> Costs:
    """Measure what there is to measure, under a bar, and keep each; all that is known then."""
    path, device = bench.path, bench.here["device"]
    known = read(path) if path.exists() else Costs(device, bench.threads, {})
    todo = list(jobs) if again else list(to_measure(jobs, known))
    console.print(f"{device}: {len(jobs)} cells, {len(todo)} to measure", soft_wrap=True)
    found = {work(jobs[name]): known.cells[name] for name in jobs if name not in todo}
    with bar_of_cells(console) as progress, stopping(()):
        task = progress.add_task("", total=len(todo))
        for name in todo:
            progress.update(task, description=name)
            if (computed := work(jobs[name])) not in found:
                found[computed] = bench.cost(jobs[name])
            cost = replace(found[computed], settings=settings_hash(jobs[name].config()))
            known = known.with_cell(name, cost)
            write(known, bench.root)
            progress.update(task, advance=1, description="")
            if cost.failure:
                console.print(f"{name}: {cost.failure}", soft_wrap=True, highlight=False)
    console.print(f"measured: {path.relative_to(bench.root)}; log: {bench.log}", soft_wrap=True)
    return known


def cells_of(target: str, root: Path) -> Iterator[tuple[str, Experiment]]:
    """The cells of a table, or of a row, or a cell alone, with their names, in order."""
    name, _, rest = target.partition("/")
    row, _, cell = rest.partition("/")
    table = load_table(name, root)
    check_names("row", [row] * bool(row), table.rows, name)
    check_names("cell", [cell] * bool(cell), table.cells(row) if row else (), f"{name}/{row}")
    for each in [row] if row else table.rows:
        for column in [cell] if cell else table.cells(each):
            yield f"{name}/{each}/{column}", resolve(table, each, column)


def to_measure(jobs: dict[str, Experiment], known: Costs) -> Iterator[str]:
    """The cells not measured with today's settings; then those that were tried and failed."""
    tried = [name for name, e in jobs.items() if known.knows(name, settings_hash(e.config()))]
    yield from (name for name in jobs if name not in tried)
    yield from (name for name in tried if known.cells[name].failure)


def work(experiment: Experiment) -> str:
    """A hash of what is computed: data of the same shape and sizes are as good as each other."""
    config, dataset = experiment.config(), DATA[experiment.data.name]
    random = (dataset.event_shape, dataset.levels, dataset.n_classes, dataset.sizes)
    config["data"]["name"] = dataset.name if isinstance(dataset, Energy) else random
    config["training"]["teacher"] = config["training"]["teacher"] is not None
    return config_hash(config)


def describe(device: str, root: Path) -> dict[str, Any]:
    """The device's name and kind, and what numbers of today depend on."""
    from nfbench import provenance
    from nfbench.machine import torch_device

    place = torch_device(device)
    name, kind = provenance.device_name(place), place.type
    return {
        "device": name,
        "kind": kind,
        "versions": provenance.versions(),
        **provenance.commit(root),
    }


def time_stand_in(experiment: Experiment, device: str, threads: int) -> Timing:
    """The timing of a cell; one that learns from another run learns from its own first weights.

    Raises:
        UsageError: if it cannot be built, or memory does not suffice.
    """
    import torch

    from nfbench import checkpoint
    from nfbench.build import build_model

    from .estimate import time_cell

    with tempfile.TemporaryDirectory() as folder:
        if experiment.training.teacher is not None:
            model = build_model(experiment, DATA[experiment.data.name])
            path = Path(folder) / "best.pt"
            identity, weights = experiment.identity(), model.state_dict()
            checkpoint.save(path, {"experiment": identity, "model": weights})
            experiment = replace(
                experiment, training=replace(experiment.training, teacher=str(path))
            )
        try:
            return time_cell(experiment, device=device, threads=threads)
        except torch.OutOfMemoryError as error:
            raise UsageError("out of memory") from error
