"""What of ours waits or runs, as squeue tells; works without accounting. Imports no torch."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .commands import call
from .manifest import Submission

# Columns of squeue and their widths; the folder, which may hold anything, comes last.
COLUMNS = {
    "ArrayJobID": 16,
    "ArrayTaskID": 16,
    "State": 24,
    "RestartCnt": 8,
    "Reason": 64,
    "WorkDir": 1024,
}


@dataclass(frozen=True)
class Task:
    """A task of an array that waits, and why, or runs; without an index a job of its own."""

    job: str
    index: int | None
    state: str
    restarts: int
    reason: str

    @property
    def runs(self) -> bool:
        """Whether it has nodes."""
        return self.state not in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")

    @property
    def name(self) -> str:
        """As SLURM's commands take it."""
        return self.job if self.index is None else f"{self.job}_{self.index}"


Queue = Mapping[Path, list[Task]]


def queue() -> Queue:
    """Everything of this user in the queue, by working directory.

    Raises:
        CommandError: SLURM does not answer.
    """
    columns = ",".join(f"{name}:{width}" for name, width in COLUMNS.items())
    words = ("--noheader", "--me", "--all", "--array")  # hidden partitions too
    output, _ = call("squeue", *words, f"--Format={columns}")
    found: dict[Path, list[Task]] = defaultdict(list)
    for line in output.splitlines():
        values, start = [], 0
        for width in COLUMNS.values():
            values.append(line[start : start + width].strip())
            start += width
        job, index, state, restarts, reason, folder = values
        number = int(index) if index.isdigit() else None
        found[Path(folder)].append(Task(job, number, state, int(restarts or 0), reason))
    return found


def active(submissions: Iterable[Submission], queue: Queue) -> dict[str, Task]:
    """The cells of some submissions that wait or run, each with its task."""
    return {
        cell: task
        for each in submissions
        for task in queue.get(each.folder, [])
        if task.index is not None
        for cell in each.task(task.index)
    }
