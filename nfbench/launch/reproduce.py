"""reproduce(table): plan, estimate, launch what is missing, render.

Imports no torch itself.
"""

import os
import shlex
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from nfbench import plots, record, rendering, tables
from nfbench.config import machine_words
from nfbench.console import new_console
from nfbench.data.manage import status
from nfbench.errors import UsageError
from nfbench.units import duration

from .local import Outcome, launch
from .plan import DONE, FAILED, STALE, Job, plan, to_run


def reproduce(
    table: str,
    *,
    rows: Sequence[str] = (),
    cells: Sequence[str] = (),
    seeds: Iterable[int] = (0,),
    jobs: int | None = None,
    device: str = "auto",
    threads: int = 1,
    compile: bool = False,
    shard: bool = False,
    wandb: str = "auto",
    dry_run: bool = False,
    only: Collection[str] | None = None,
    root: Path | None = None,
) -> bool:
    """Run a table's missing cells and render it; tell whether all that could run have a number.

    ``only`` those named TABLE/ROW/CELL/SEED, if it is given.

    ``jobs`` cells run side by side: by default as many as there are cores for ``threads`` each,
    one on a GPU.

    Raises:
        UsageError: if a table, row or cell is unknown.
    """
    console = new_console()
    root = root or record.find_root()
    planned = plan(table, rows=rows, cells=cells, seeds=seeds, root=root)
    runnable = to_run(planned, only)
    absent = {
        name
        for name in {job.experiment.data.name for job in runnable}
        if status(name).state != "ready"
    }
    todo = [job for job in runnable if job.experiment.data.name not in absent]
    n_parallel = jobs or default_jobs(device, threads)
    show_plan(console, table, planned, todo, absent, n_parallel, device, threads)
    if dry_run:
        return True
    options = ["--device", device, "--threads", str(threads), "--no-bar"]
    options += machine_words(compile=compile, shard=shard, wandb=wandb)
    outcomes = launch_with_bar(console, todo, n_parallel, options)
    finish(console, table, root)
    good = report(console, outcomes, [job for job in planned if job.state == FAILED])
    return good and len(todo) == len(runnable)


def default_jobs(device: str, threads: int) -> int:
    """How many cells the cores allow; a GPU is not shared."""
    import torch

    if device != "cpu" and torch.cuda.is_available():
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // threads)


def show_plan(
    console: Console,
    table: str,
    jobs: Sequence[Job],
    todo: Sequence[Job],
    absent: set[str],
    n_parallel: int,
    device: str,
    threads: int,
) -> None:
    """Say what is done, what will run and what it costs, and which data are missing."""
    n_done = sum(job.state == DONE for job in jobs)
    console.print(
        f"{table}: {len(jobs)} cells, {n_done} done, {len(todo)} to run, {n_parallel} at a time"
    )
    stale = [job.name for job in jobs if job.state == STALE]
    if stale:
        console.print(f"stale, move their records away to run them again: {', '.join(stale)}")
    if todo:
        show_costs(console, todo, n_parallel, device, threads)
    for name in sorted(absent):
        console.print(
            f"left out: data set {name} is {status(name).state}; to see what provides it:"
            f"\n    nfbench data verify {name}",
            soft_wrap=True,
        )


def show_costs(
    console: Console, jobs: Sequence[Job], n_parallel: int, device: str, threads: int
) -> None:
    """Time a few steps of each job, once for those that differ by seed alone, and extrapolate."""
    from .estimate import Estimate, estimate

    timed: dict[str, Estimate | str] = {}
    with console.status("timing a few steps of each cell"):
        for job in jobs:
            if job.experiment.hash not in timed:
                try:
                    timed[job.experiment.hash] = estimate(
                        job.experiment, device=device, threads=threads
                    )
                except UsageError as error:
                    timed[job.experiment.hash] = f"cannot run: {error}"
    view = Table("cell", "state", "cost of one process here")
    costs = [timed[job.experiment.hash] for job in jobs]
    for job, cost in zip(jobs, costs, strict=True):
        view.add_row(job.name, job.state, str(cost))
    console.print(view)
    fixed = [c.seconds for c in costs if isinstance(c, Estimate) and not c.open_ended]
    if fixed:
        total = duration(max(sum(fixed) / n_parallel, *fixed))
        text = f"about {total} in all for the cells with a fixed end, and a start-up for each"
        console.print(text)


def bar_of_cells(console: Console) -> Progress:
    """A bar that counts cells and names those that are in work."""
    columns = (
        TextColumn("cells"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    return Progress(*columns, console=console)


def launch_with_bar(
    console: Console, jobs: Sequence[Job], n_parallel: int, options: Sequence[str], **how: Any
) -> list[Outcome]:
    """Launch jobs under a bar that names those running; say how to go on if it is interrupted.

    More keyword arguments are those of ``launch``.
    """
    running: dict[str, Job] = {}
    with bar_of_cells(console) as progress:
        task = progress.add_task("", total=len(jobs))

        def on_start(job: Job) -> None:
            running[job.name] = job
            progress.update(task, description=", ".join(running))

        def on_end(outcome: Outcome) -> None:
            running.pop(outcome.job.name)
            progress.update(task, advance=1, description=", ".join(running))
            word = (
                "done"
                if outcome.exit_code == 0
                else f"exit code {outcome.exit_code}, see {outcome.job.log}"
            )
            progress.console.print(f"{outcome.job.name}: {word}")

        try:
            return launch(
                jobs,
                n_parallel=n_parallel,
                options=options,
                on_start=on_start,
                on_end=on_end,
                **how,
            )
        except KeyboardInterrupt:
            console.print(
                "interrupted; what a run had done is in its checkpoint. "
                "The same command goes on from there."
            )
            raise SystemExit(130) from None


def finish(console: Console, table: str, root: Path) -> None:
    """Render the table, and the figure if its runs left pictures."""
    view = tables.build(table, root)
    path = rendering.write(view)
    console.print(tables.terminal(view))
    console.print(f"table: {path.relative_to(root)}")
    if figure := plots.gallery(table, root):
        console.print(f"figure: {figure.relative_to(root)}")


def report(console: Console, outcomes: Sequence[Outcome], failed_before: Sequence[Job]) -> bool:
    """List what failed, with log and the command to run it again; tell whether nothing did."""
    bad = [outcome.job for outcome in outcomes if outcome.exit_code] + list(failed_before)
    for job in bad:
        lines = [f"failed: {job.name}", f"  log: {job.log}"]
        lines.append(f"  again: {shlex.join(job.experiment.command)}")
        console.print("\n".join(lines), soft_wrap=True, highlight=False)
    return not bad
