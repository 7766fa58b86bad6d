"""Tables and sweeps on SLURM: what is missing and not in the queue is sent. Imports no torch."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nfbench import record
from nfbench.errors import UsageError
from nfbench.sweeps.result import finished
from nfbench.sweeps.space import Sweep

from .commands import CommandError, most_tasks
from .manifest import submissions
from .plan import DONE, FAILED, STALE, Job, plan, to_run
from .profile import Profile
from .queue import active, queue
from .submit import Draft, Sent, data_folder, draft, send, submitting

USUAL_MAX_ARRAY = 1001


@dataclass(frozen=True)
class Report:
    """What was there, what was sent or, of a dry run, would be; and what was left out, and why."""

    n_done: int
    n_active: int
    n_failed: int
    draft: Draft | None
    sent: Sent | None
    notes: list[str]


def submit_table(
    table: str,
    profile: Profile,
    *,
    rows: Sequence[str] = (),
    cells: Sequence[str] = (),
    seeds: Iterable[int] = (0,),
    overrides: Sequence[str] = (),
    options: Sequence[str] = (),
    threads: int | None = None,
    push: bool = False,
    dry_run: bool = False,
    only: Collection[str] | None = None,
    root: Path | None = None,
) -> Report:
    """Send what is missing of a table and not in the queue, then a job that renders it.

    `only` those named TABLE/ROW/CELL/SEED, if it is given; `threads` are by default as many as a
    cell has CPUs.

    Raises:
        UsageError: an unknown name, SLURM refuses or does not answer, or runs/ cannot be written.
    """
    root = root or record.find_root()
    jobs = plan(table, rows=rows, cells=cells, seeds=seeds, overrides=overrides, root=root)
    after = [["nfbench", "table", table]]
    after += [["nfbench", "leaderboard", "push", table]] if push else []
    runnable, notes = with_data(to_run(jobs, only), profile)
    lines = {
        job.place: [
            *[*job.experiment.command, "--no-bar", *options],
            *["--threads", str(threads or profile.of(job.place).cpus)],
        ]
        for job in runnable
    }
    report = submit(table, lines, profile, root, after=after, dry_run=dry_run)
    n_done, n_failed = (sum(job.state == s for job in jobs) for s in (DONE, FAILED))
    stale = [job.name for job in jobs if job.state == STALE]
    if n_failed:
        notes.append(f"{n_failed} failed; to run them again: nfbench retry {table} --failed")
    if stale:
        notes.append(f"stale, move their records away to run them again: {', '.join(stale)}")
    return Report(n_done, report.n_active, n_failed, report.draft, report.sent, notes)


def submit_sweep(
    sweep: Sweep,
    profile: Profile,
    *,
    workers: int,
    options: Sequence[str] = (),
    dry_run: bool = False,
) -> Report:
    """Send processes that work on a sweep until so many of them are in the queue.

    Raises:
        UsageError: as `submit_table`, or a profile of cells of several processes.
    """
    name = f"sweeps/{sweep.name}"
    if (size := profile.of(f"{name}/0").world_size) > 1:
        message = f"profile {profile.name}: expected one process for each trial of a sweep"
        raise UsageError(f"{message}, got nodes x tasks_per_node = {size}")
    if finished(sweep):
        return Report(1, 0, 0, None, None, [f"{name} is finished; nothing is sent"])
    words = [*sweep.command, "--jobs", "1", *options]
    lines = {f"{name}/{i}": words for i in range(min(workers, sweep.trials))}
    return submit(name, lines, profile, sweep.root, after=(), dry_run=dry_run)


def submit(
    name: str,
    lines: dict[str, list[str]],
    profile: Profile,
    root: Path,
    *,
    after: Sequence[Sequence[str]],
    dry_run: bool,
) -> Report:
    """Send the commands of the cells that are not in the queue."""
    if dry_run:
        try:
            return prepare(name, lines, profile, root, after, most_tasks(), active_now(root, name))
        except CommandError as error:
            found = prepare(name, lines, profile, root, after, USUAL_MAX_ARRAY, set())
            found.notes.append(f"what is in the queue is not known: {error}")
            return found
    with submitting(root, name):
        found = prepare(name, lines, profile, root, after, most_tasks(), active_now(root, name))
        sent = send(found.draft) if found.draft else None
    return Report(0, found.n_active, 0, found.draft, sent, found.notes)


def active_now(root: Path, name: str) -> set[str]:
    """The cells of a table or a sweep that are in the queue."""
    return set(active(submissions(root, name), queue()))


def prepare(
    name: str,
    lines: dict[str, list[str]],
    profile: Profile,
    root: Path,
    after: Sequence[Sequence[str]],
    most: int,
    there: set[str],
) -> Report:
    """A draft of the cells that are not there yet."""
    todo = {cell: words for cell, words in lines.items() if cell not in there}
    drafted = draft(root, name, todo, profile, most=most, after=after) if todo else None
    return Report(0, len(lines) - len(todo), 0, drafted, None, [])


def with_data(jobs: Sequence[Job], profile: Profile) -> tuple[list[Job], list[str]]:
    """The jobs whose data are there, and what is said of the others.

    Of a folder that only the nodes see nothing is known, and nothing left out.
    """
    from nfbench.data.manage import status

    root = data_folder(profile)
    if "NFBENCH_DATA" in profile.env and not root.is_dir():
        return list(jobs), []
    names = {job.experiment.data.name for job in jobs}
    absent = {n: state for n in sorted(names) if (state := status(n, root).state) != "ready"}
    notes = [f"left out: data set {n} is {s}: nfbench data verify {n}" for n, s in absent.items()]
    return [job for job in jobs if job.experiment.data.name not in absent], notes
