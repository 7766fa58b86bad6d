"""What is done to submitted cells: cancelled, or run again after they failed. Imports no torch."""

import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from nfbench import record
from nfbench.errors import UsageError
from nfbench.record import NAME

from .commands import call
from .manifest import latest, submissions, submitted_names
from .plan import FAILED, Job
from .queue import Task, queue
from .standing import Standing


@dataclass(frozen=True)
class Cancelled:
    """A task that was cancelled, and its cells; none of a job that renders."""

    task: Task
    cells: tuple[str, ...]


def cancel(target: str | None, root: Path) -> list[Cancelled]:
    """Cancel all tasks with a cell of a target: a table, or sweeps/NAME, or TABLE/ROW/..., or all.

    A table's jobs that render go with it.

    Raises:
        UsageError: nothing of this name was submitted, or SLURM does not answer.
    """
    found = list(matching(target, root))
    by_job: dict[str, list[str]] = defaultdict(list)
    for each in found:
        by_job[each.task.job].append("" if each.task.index is None else str(each.task.index))
    for job, indices in by_job.items():
        call("scancel", "--quiet", job if indices == [""] else f"{job}_[{','.join(indices)}]")
    return found


def matching(target: str | None, root: Path) -> Iterator[Cancelled]:
    """What of a target waits or runs."""
    names = submitted_names(root)
    chosen = [n for n in names if target is None or within(target, n) or within(n, target)]
    if not chosen:
        raise UsageError(
            f"{target or 'cancel'}: nothing of it was submitted ({', '.join(names) or 'no table'})"
        )
    there = queue()
    for name in chosen:
        for each in submissions(root, name):
            for task in there.get(each.folder, []):
                cells = () if task.index is None else each.task(task.index)
                whole = target is None or within(name, target)
                if whole or any(within(cell, str(target)) for cell in cells):
                    yield Cancelled(task, cells)


def within(name: str, target: str) -> bool:
    """Whether a name is a target or below it: a/b/c of a/b."""
    return f"{name}/".startswith(f"{target.strip('/')}/")


def log_of(target: str, root: Path) -> Path:
    """The log of a run, TABLE/ROW/CELL[/SEED]; where it has none what its SLURM task printed.

    Raises:
        UsageError: no such name, or nothing was logged.
    """
    names = record.run_names(target, root)
    if len(names) not in (3, 4) or not all(NAME.fullmatch(part) for part in names[:3]):
        raise UsageError(f"expected TABLE/ROW/CELL[/SEED], as in demo/maf/moons/0, got {target!r}")
    name = "/".join([*names, "0"][:4])
    own = root / "runs" / name / "log.txt"
    last = latest(submissions(root, names[0]))
    printed = [last[name].output(name)] if name in last else []
    for path in (own, *printed):
        if path.exists():
            return path
    raise UsageError(f"{name}: nothing was logged so far; see nfbench status {names[0]}")


def put_aside(found: Sequence[Standing]) -> tuple[list[Job], list[str]]:
    """The failed cells among some, ready to run anew, and what is said of others.

    Those with a record that says so begin from the start: record and run are moved to
    runs/failed/. The others have none, and go on from what they saved.
    """
    jobs, notes = [], []
    for each in found:
        if each.state != FAILED or each.job is None:
            continue
        path = record.record_path(each.job.experiment, each.job.root)
        if path.exists():
            try:
                notes.append(f"{each.name}: what failed is in {move(each.job, path)}")
            except Timeout:
                notes.append(f"{each.name}: left, as another process runs it")
                continue
        jobs.append(each.job)
    return jobs, notes


def move(job: Job, path: Path) -> Path:
    """Move a record and the folder of its run aside; where to.

    Raises:
        Timeout: the cell is running.
    """
    folder = record.run_dir(job.experiment, job.root)
    above = job.root / "runs" / "failed" / folder.relative_to(job.root / "runs")
    number = 1 + max((int(each.name) for each in above.glob("[0-9]*")), default=0)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "run.lock", blocking=False):
        above.mkdir(parents=True, exist_ok=True)
        shutil.move(path, folder / "record.json")
        folder.rename(above / str(number))
    return above / str(number)
