"""Push to W&B what ran offline: whole runs, resumable, nothing twice. Imports no torch.

A run that was interrupted has a log for each of its starts; they are pushed together, in order,
as one run. A log that W&B has taken carries a marker beside it and is not read again.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from nfbench.errors import UsageError

from .log_file import Logged, heal, read_log
from .mode import obstacle

SECONDS = 300.0  # in which W&B takes one more log, or is taken for gone
POLL_SECONDS = 0.2
RUNNING = "still running; push it when it has ended"
NOT_PASSED_ON = ("WANDB_MODE", "WANDB_SERVICE")  # how this process tracks runs, if it does
BATCH = 100  # runs for a process, whose command line has an end


@dataclass(frozen=True)
class Offline:
    """A run with logs that W&B has not taken, in order, and what speaks against pushing it."""

    id: str
    project: str
    logs: tuple[Path, ...]
    problem: str | None = None


def sync(
    paths: Sequence[Path],
    *,
    dry_run: bool = False,
    patience: float = SECONDS,
    console: Console | None = None,
) -> bool:
    """Push the offline runs below some folders; tell whether none is left for a fault.

    Runs that are still running wait for the next call.

    Raises:
        UsageError: no key, or a server that does not answer.
    """
    console = console or Console()
    found = pending(paths)
    good = [run for run in found if run.problem is None]
    if dry_run:
        for run in good:
            tell(console, run, f"to push, {parts(run)}")
    elif good:
        if reason := obstacle():
            raise UsageError(f"wandb sync: nothing was pushed, as {reason}")
        found = [run for run in found if run.problem] + push(good, patience, console)
    bad = [run for run in found if run.problem]
    for run in bad:
        tell(console, run, str(run.problem))
    done = 0 if dry_run else len(found) - len(bad)
    console.print(f"{len(good)} to push, {done} pushed, {len(bad)} left")
    return all(run.problem == RUNNING for run in bad)


def tell(console: Console, run: Offline, text: str) -> None:
    """Print a line about a run, on one line and as it is."""
    words = f"{run.project}/{run.id}: {text}"
    console.print(words, soft_wrap=True, markup=False, highlight=False)


def parts(run: Offline) -> str:
    """Of how many logs a run is, in words."""
    return "1 log" if len(run.logs) == 1 else f"{len(run.logs)} logs"


def pending(paths: Sequence[Path]) -> list[Offline]:
    """The runs below some folders that have logs without a marker, by name."""
    found: dict[tuple[str, str], list[Logged]] = {}
    faults = []
    for path in sorted({log.resolve() for each in paths for log in logs_below(each)}):
        if marker(path).exists():
            continue
        try:
            logged = read_log(path)
        except UsageError as error:
            faults.append(Offline(path.parent.name, "?", (path,), str(error)))
            continue
        if logged.id:  # else it was killed before it had a name
            found.setdefault((logged.project, logged.id), []).append(logged)
    runs = []
    for (project, name), logs in sorted(found.items()):
        logs.sort(key=lambda logged: (logged.started, logged.path))
        runs.append(Offline(name, project, tuple(each.path for each in logs), fault(logs)))
    return runs + faults


def logs_below(path: Path) -> Iterator[Path]:
    """The logs of offline runs in a folder, or the log itself.

    Raises:
        UsageError: there is no such path.
    """
    if not path.exists():
        raise UsageError(f"wandb sync: expected a folder with runs, got none: {path}")
    if path.is_file():
        yield path
    elif path.name.startswith("offline-run-"):
        yield from path.glob("*.wandb")
    else:
        yield from path.rglob("offline-run-*/*.wandb")


def marker(log: Path) -> Path:
    """What W&B leaves beside a log that it has taken."""
    return log.with_name(f"{log.name}.synced")


def fault(logs: Iterable[Logged]) -> str | None:
    """What keeps a run from being pushed whole: it goes on, or files of its artifacts are gone.

    W&B itself takes a run without such files and says nothing.
    """
    for logged in logs:
        if is_running(logged.path.parents[2]):
            return RUNNING
        for file in logged.staged:
            if not file.exists():
                return f"not pushed: a file of an artifact is missing: {file}"
    return None


def is_running(directory: Path) -> bool:
    """Whether a process is at work in a run's folder."""
    lock = directory / "run.lock"
    if not lock.exists():
        return False
    try:
        with FileLock(lock, blocking=False):
            return False
    except Timeout:
        return True


def push(runs: Sequence[Offline], patience: float, console: Console) -> list[Offline]:
    """Push runs, under a bar; each comes back with what went wrong, if anything did."""
    columns = (TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    pushed: list[Offline] = []
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(runs))
        for batch in (runs[at : at + BATCH] for at in range(0, len(runs), BATCH)):
            for run in batch:
                for log in run.logs:
                    heal(log)
            with tempfile.TemporaryDirectory() as folder:
                output = Path(folder, "output")
                with contextlib.closing(call(batch, output, patience)) as counts:
                    for n_taken in counts:
                        progress.update(task, completed=len(pushed) + n_taken)
                lines = output.read_text().splitlines()
            pushed += [judge(run, lines) for run in batch]
            progress.update(task, completed=len(pushed))
    return pushed


def call(batch: Sequence[Offline], output: Path, patience: float) -> Generator[int]:
    """`wandb sync` of some runs: how many it has taken so far, again and again.

    It is stopped if it takes no log for so many seconds: it never gives a server up by itself.
    What it prints goes to a file, and its own logs beside it.
    """
    logs = [log for run in batch for log in run.logs]
    env = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "wandb", "sync", "--yes", *map(str, logs)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env=env | {"WANDB_DIR": str(output.parent)},
        )
    taken, since = 0, time.monotonic()
    try:
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            now = sum(marker(log).exists() for log in logs)
            if now > taken:
                taken, since = now, time.monotonic()
            if time.monotonic() - since > patience:
                with output.open("a") as file:
                    file.write(f"ERROR W&B took nothing for {patience:g} seconds\n")
                return
            yield sum(all(marker(log).exists() for log in run.logs) for run in batch)
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started, whatever they wait for."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def judge(run: Offline, lines: Sequence[str]) -> Offline:
    """A run after the push: W&B's exit code is 0 and its marker is there after errors too."""
    names = [f"[{run.project}/{run.id}]", *(str(log.parent) for log in run.logs)]
    errors = [line for line in lines if "ERROR" in line]
    own = [line for line in errors if any(name in line for name in names)]
    missing = [log for log in run.logs if not marker(log).exists()]
    if not own and not missing:
        return run
    for log in run.logs if own else ():
        marker(log).unlink(missing_ok=True)
    said = " ".join((own or errors or lines or ["it said nothing"])[-1].split())
    return replace(run, problem=f"not taken: {said}")
