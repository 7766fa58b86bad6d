"""How the cells of a table are: from records, submissions, curves and the queue.

Imports no torch.
"""

import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nfbench import record
from nfbench.catalog import Table, load_table
from nfbench.config import Experiment
from nfbench.curve import read_curve

from .manifest import Submission, latest, submissions
from .plan import DONE, FAILED, MISSING, STALE, STARTED, Job, of_cell
from .queue import Queue, Task, active
from .script import SAVED

RUNNING, QUEUED, REQUEUED = "running", "queued", "requeued"
IN_QUEUE = (RUNNING, QUEUED, REQUEUED)
ORDER = (DONE, RUNNING, REQUEUED, QUEUED, FAILED, STALE, STARTED, MISSING)
LAST_LINES, TAIL_BYTES = 3, 1 << 16
STEP = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) .*: step (\d+), val ", re.MULTILINE)


@dataclass(frozen=True)
class Standing:
    """A cell, how it is, and what more is known of it."""

    name: str
    state: str
    note: str = ""
    job: Job | None = None


def standings(table_name: str, queue: Queue | None, root: Path) -> list[Standing]:
    """Every cell of a table with seed 0, and all others that were submitted, begun or recorded.

    Without a queue what waits or runs is not told from what has ended.

    Raises:
        UsageError: an unknown table, or a manifest that is none.
    """
    if table_name.startswith("sweeps/"):
        return of_sweep(table_name, queue or {}, root)
    table, sent = load_table(table_name, root), submissions(root, table_name)
    seeds = seeds_of(table, latest(sent), root)
    there = active(sent, queue or {})
    last = latest(sent) if queue is not None else {}
    jobs = [
        job for (row, cell), found in seeds.items() for job in of_cell(table, row, cell, found)
    ]
    return [standing(job, there, last) for job in jobs]


def of_sweep(name: str, queue: Queue, root: Path) -> list[Standing]:
    """The processes of a sweep that wait or run."""
    tasks = active(submissions(root, name), queue)
    return [Standing(process, state_of(task), task.name) for process, task in tasks.items()]


def seeds_of(table: Table, sent: Iterable[str], root: Path) -> dict[tuple[str, str], list[int]]:
    """Row and cell -> seeds: 0, those submitted, and those with a checkpoint or a record."""
    found = {(row, cell): {0} for row in table.rows for cell in table.cells(row)}
    records = (root / "results" / table.name).glob("*/*/[0-9]*.json")
    begun = (root / "runs" / table.name).glob("*/*/[0-9]*/last.pt")
    places = [path.with_suffix("").parts[-3:] for path in records]
    places += [path.parts[-4:-1] for path in begun]
    for row, cell, seed in [*places, *(name.split("/")[1:] for name in sent)]:
        if (row, cell) in found and seed.isdigit():
            found[row, cell].add(int(seed))
    return {place: sorted(seeds) for place, seeds in found.items()}


def standing(job: Job, there: Mapping[str, Task], last: Mapping[str, Submission]) -> Standing:
    """How one cell is."""
    name = job.place
    if job.state in (DONE, STALE):
        return Standing(name, job.state, "", job)
    if task := there.get(name):
        return Standing(name, *in_queue(job, task), job)
    if job.state == FAILED:
        failure = record.read(record.record_path(job.experiment, job.root)).failure or {}
        note = f"{failure['kind']} at step {failure['step']}: {failure['message']}"
        return Standing(name, FAILED, note, job)
    if name in last and (path := last[name].output(name)).exists():
        lines = tail(path)
        if not lines or not lines[-1].endswith(SAVED):  # what was cancelled has not failed
            return Standing(name, FAILED, "\n".join([*lines, f"see {path}"]), job)
    return Standing(name, job.state, progress(job) if job.state == STARTED else "", job)


def state_of(task: Task) -> str:
    """How a task is that waits or runs."""
    waits = REQUEUED if task.restarts else QUEUED
    return RUNNING if task.runs else waits


def in_queue(job: Job, task: Task) -> tuple[str, str]:
    """The state and what is known of a cell whose task waits or runs."""
    times = "once" if task.restarts == 1 else f"{task.restarts} times"
    again = f"requeued {times}" if task.restarts else ""
    waits = "" if task.runs or task.reason == "None" else task.reason
    far = "" if job.state == MISSING else progress(job)
    return state_of(task), ", ".join(filter(None, [task.name, again, waits, far]))


def progress(job: Job) -> str:
    """The last validated step of how many, the best validation, and when it may be done."""
    folder = record.run_dir(job.experiment, job.root)
    curve = read_curve(folder / "curve.jsonl")
    if not curve:
        return ""
    step, best = int(curve[-1]["step"]), max(line["val_log_likelihood"] for line in curve)
    total = last_step(job.experiment)
    parts = [f"step {step}{f' of {total}' if total else ''}", f"best val {best:.4f} nats"]
    if total and (left := seconds_left(folder, total)) is not None:
        parts.append(f"ETA {clock(left)}")
    return ", ".join(parts)


def last_step(experiment: Experiment) -> int | None:
    """The last optimizer step, or None where early stopping alone ends the training."""
    training = experiment.training
    given = [training.max_steps] if training.max_steps is not None else []
    if training.max_epochs is not None:
        from nfbench.data import DATA

        n_train = DATA[experiment.data.name].sizes[0]
        given.append(training.max_epochs * max(1, n_train // experiment.data.batch_size))
    return min(given, default=None)


def seconds_left(folder: Path, total: int) -> float | None:
    """Seconds until a step, at the pace of the validations that a log tells since its last start.

    None where it tells fewer than two. The last one is as old as the curve: a node, or a
    container, may have the clock of another time zone.
    """
    found = [(parse(when), int(step)) for when, step in STEP.findall(end_of(folder / "log.txt"))]
    if not found:
        return None
    begin = max([i for i in range(1, len(found)) if found[i][1] <= found[i - 1][1]], default=0)
    (start, first), (end, last) = found[begin], found[-1]
    if last == first:
        return None
    pace = (end - start) / (last - first)
    age = time.time() - (folder / "curve.jsonl").stat().st_mtime
    return max(0.0, pace * (total - last) - age)


def parse(when: str) -> float:
    """The time of a log's line, in seconds."""
    return time.mktime(time.strptime(when, "%Y-%m-%d %H:%M:%S"))


def clock(seconds: float) -> str:
    """2:03:04."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def end_of(path: Path) -> str:
    """The end of a file's text, nothing where there is none."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
        return file.read().decode(errors="replace")


def tail(path: Path) -> list[str]:
    """The last lines of a file that say something."""
    lines = [line.rstrip() for line in end_of(path).splitlines() if line.strip()]
    return lines[-LAST_LINES:]
