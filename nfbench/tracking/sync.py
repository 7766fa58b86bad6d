"""Push to W&B what it lacks of runs, offline or cut off: whole runs, nothing twice.

A run that was interrupted has a log for each of its starts. They are merged into one, and pushed
from the first row on that W&B does not have: so does the next push if this one is cut, or if there
is another start since. When W&B has taken all, each log gets a marker beside it; a log itself is
never changed. Imports no torch.
"""

import contextlib
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from nfbench.console import new_console
from nfbench.errors import UsageError
from nfbench.record import find_root

from .log_file import Logged, marker, read_log
from .merge import merge
from .mode import obstacle

SECONDS = 300.0  # in which W&B takes one more log, or is taken for gone
POLL_SECONDS = 0.2
RUNNING = "still running; push it when it has ended"
NOT_PASSED_ON = ("WANDB_MODE", "WANDB_SERVICE")  # how this process tracks runs, if it does
BATCH = 100  # runs for a process, whose command line has an end


@dataclass(frozen=True)
class Offline:
    """A run with a log that W&B has not taken: all its logs, in order.

    ``problem`` is what speaks against pushing it.
    """

    id: str
    project: str = "?"  # with the entity before it, if it names one
    logs: tuple[Logged, ...] = ()
    problem: str | None = None


def sync(
    paths: Sequence[Path] = (),
    *,
    root: Path | None = None,
    dry_run: bool = False,
    patience: float = SECONDS,
    console: Console | None = None,
) -> bool:
    """Push the runs below some folders, or all; tell whether none is left for a fault.

    Runs that are still running wait for the next call.

    Raises:
        UsageError: no key, a server that does not answer, or another process that pushes.
    """
    root, console = root or find_root(), console or new_console()
    paths = paths or [root / "runs"]
    if dry_run:
        return push_all(paths, patience, console, dry_run=True)
    lock = root / "runs" / "sync.lock"
    lock.parent.mkdir(exist_ok=True)
    try:
        with FileLock(lock, blocking=False):
            return push_all(paths, patience, console)
    except Timeout:
        raise UsageError(
            f"wandb sync: expected no other one to be at work, got one that holds {lock}; "
            "try again when it has ended"
        ) from None


def push_all(
    paths: Sequence[Path], patience: float, console: Console, *, dry_run: bool = False
) -> bool:
    """Push the runs below some folders; tell whether none is left for a fault.

    Raises:
        UsageError: no key, or a server that does not answer.
    """
    found = pending(paths)
    good = [run for run in found if run.problem is None]
    for run in good:
        for log in (logged.path for logged in run.logs if logged.spoilt):
            tell(console, run, f"part of {log} cannot be read; the rest is pushed")
    if dry_run:
        for run in good:
            tell(console, run, f"to push, {parts(run)}")
    elif good:
        if reason := obstacle():
            raise UsageError(f"wandb sync: nothing was pushed, as {reason}")
        there = rows_there(good, patience)
        found = [run for run in found if run.problem] + push(good, there, patience, console)
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
    """The runs below some folders that have a log without a marker, by folder."""
    logs = {log.resolve() for each in paths for log in logs_below(each)}
    starts = sorted({(log.parents[1], log.name) for log in logs})
    found = [starts_of_run(sorted(folder.glob(f"*run-*/{name}"))) for folder, name in starts]
    return [run for run in found if run]


def starts_of_run(logs: Sequence[Path]) -> Offline | None:
    """The run of some logs, if W&B has not taken all; one log that is unreadable holds it back."""
    if all(marker(log).exists() for log in logs):
        return None
    try:
        read = [read_log(log) for log in logs]
        for logged in read:
            if logged.spoilt and not logged.id:
                raise UsageError(f"{logged.path}: its beginning cannot be read")
    except UsageError as error:
        return Offline(logs[0].stem.removeprefix("run-"), problem=str(error))
    named = [logged for logged in read if logged.id]  # else it was killed before it had a name
    if all(marker(logged.path).exists() for logged in named):
        return None
    named.sort(key=lambda logged: (logged.started, logged.path))
    first = named[0]
    project = "/".join(filter(None, [first.entity, first.project]))
    return Offline(first.id, project, tuple(named), fault(named))


def logs_below(path: Path) -> Iterator[Path]:
    """The logs of runs in a folder, or the log itself.

    Raises:
        UsageError: there is no such path.
    """
    if not path.exists():
        raise UsageError(f"wandb sync: expected a folder with runs, got none: {path}")
    if path.is_file():
        yield path
    elif path.name.startswith(("offline-run-", "run-")):
        yield from path.glob("*.wandb")
    else:  # `latest-run` is a link to one of these
        yield from path.rglob("*run-*/*.wandb")


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


def rows_there(runs: Sequence[Offline], patience: float) -> Counter[tuple[str, str]]:
    """How many rows W&B has of some runs, by project and id.

    Raises:
        UsageError: it does not tell.
    """
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    found = Counter[tuple[str, str]]()
    for project in sorted({run.project for run in runs}):
        names = [run.id for run in runs if run.project == project]
        try:
            api = wandb.Api(timeout=math.ceil(patience))
            for each in api.runs(project, filters={"name": {"$in": names}}, per_page=BATCH):
                found[project, each.id] = each.historyLineCount
        except ValueError:  # there is no such project yet
            continue
        except (wandb.errors.Error, WandbApiFailedError, TimeoutError) as error:
            said = " ".join(str(error).split())
            raise UsageError(
                f"wandb sync: nothing was pushed; of what is there: {said}"
            ) from error
    return found


def push(
    runs: Sequence[Offline], there: Counter[tuple[str, str]], patience: float, console: Console
) -> list[Offline]:
    """Push runs, under a bar; each comes back with what went wrong, if anything did."""
    columns = (TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    pushed: list[Offline] = []
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(runs))
        for batch in (runs[at : at + BATCH] for at in range(0, len(runs), BATCH)):
            with tempfile.TemporaryDirectory() as folder:
                logs = [
                    merge(run.logs, there[run.project, run.id], Path(folder, str(i)))
                    for i, run in enumerate(batch)
                ]
                output = Path(folder, "output")
                with contextlib.closing(call(logs, output, patience)) as counts:
                    for n_taken in counts:
                        progress.update(task, completed=len(pushed) + n_taken)
                lines = output.read_text().splitlines()
                pushed += [judge(run, log, lines) for run, log in zip(batch, logs, strict=True)]
            progress.update(task, completed=len(pushed))
    return pushed


def call(logs: Sequence[Path], output: Path, patience: float) -> Generator[int]:
    """`wandb sync` of some logs: how many it has taken so far, again and again.

    It is stopped if it takes no log for so many seconds: it never gives a server up by itself.
    What it prints goes to a file, and its own logs beside it.
    """
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
            yield taken
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started, whatever they wait for."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def judge(run: Offline, log: Path, lines: Sequence[str]) -> Offline:
    """A run after the push of its log, marked if W&B has taken it.

    W&B's exit code is 0 and its own marker is there after errors too.
    """
    errors = [line for line in lines if "ERROR" in line]
    names = (f"/{run.id}]", f"{log.parent}")
    own = [line for line in errors if any(name in line for name in names)]
    if marker(log).exists() and not own:
        for logged in run.logs:
            marker(logged.path).touch()
        return run
    said = " ".join((own or errors or lines or ["it said nothing"])[-1].split())
    return replace(run, problem=f"not taken: {said}")
