"""The processes of a sweep on this machine, and what a terminal shows of it.

Imports no torch itself.
"""

import platform
import time
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from nfbench.console import new_console
from nfbench.data.manage import status
from nfbench.errors import UsageError
from nfbench.launch.local import Process, start, stopping
from nfbench.units import duration

from .pages import words
from .result import finished
from .space import Sweep

POLL_SECONDS = 0.5


def log_path(sweep: Sweep) -> Path:
    """Where the processes of this machine write what they do."""
    return sweep.folder / f"{platform.node()}.log"


def launch(sweep: Sweep, n_jobs: int, *, device: str, threads: int) -> bool:
    """Run the sweep in ``n_jobs`` processes under a bar; tell whether it is finished.

    On Ctrl-C or SIGTERM the processes are asked to stop, leave their checkpoints, and
    KeyboardInterrupt is raised.

    Raises:
        UsageError: a process failed, and the sweep is not finished.
    """
    options = ["--jobs", "1", "--device", device, "--threads", str(threads)]
    running: list[Process] = []
    with stopping(running):
        for _ in range(n_jobs):
            running.append(start([*sweep.command, *options], log_path(sweep), sweep.root))
        watch(sweep, running)
    codes = sorted({process.returncode for process in running} - {0})
    if not (done := finished(sweep)) and codes:
        raise UsageError(
            f"{sweep.name}: a process ended with code {codes[0]}, see {log_path(sweep)}; the same "
            "command goes on from what it left"
        )
    return done


def watch(sweep: Sweep, running: list[Process]) -> None:
    """Show how far the sweep is, on all machines, until the processes of this one have ended."""
    from .study import Study, standing

    columns = TextColumn("trials"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, TextColumn("{task.description}")) as progress:
        task = progress.add_task("", total=sweep.trials)
        study = Study(sweep)
        while any(process.poll() is None for process in running):
            time.sleep(POLL_SECONDS)
            now = standing(study.trials())
            progress.update(task, completed=now.n_ended, description=str(now))


def show_plan(sweep: Sweep, n_jobs: int, *, device: str, threads: int) -> None:
    """Say what is searched, how far that is, and what a trial costs."""
    from nfbench.launch.estimate import estimate

    from .study import Study, standing

    console = new_console()
    e = sweep.base
    console.print(
        f"{sweep.name}: {sweep.head.title}; {e.table}/{e.row} on {e.cell}, "
        f"{sweep.trials} trials by {sweep.head.sampler}, {n_jobs} at a time"
    )
    view = Table("setting", "searched in")
    for key, where in sweep.identity()["space"].items():
        view.add_row(key, words(where))
    console.print(view)
    if finished(sweep):
        console.print("finished; nothing is left to run")
        return
    begun = (sweep.folder / "journal.log").exists()
    n_left = sweep.trials - (standing(Study(sweep).trials()).n_ended if begun else 0)
    console.print(f"{sweep.trials - n_left} trials done, {n_left} to go")
    if (state := status(e.data.name).state) != "ready":
        console.print(f"data set {e.data.name} is {state}; see nfbench data verify {e.data.name}")
        return
    cost = estimate(e, device=device, threads=threads)
    console.print(f"a trial with the row's own values: {cost}")
    if not cost.open_ended:
        total = duration(n_left * cost.seconds / n_jobs)
        console.print(f"about {total} in all at that, and a start-up for each process")
