"""Local processes: a few cells at a time, one process each, a log each. Imports no torch."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nfbench.signals import install

from .plan import Job

POLL_SECONDS = 0.2
Process = subprocess.Popen[bytes]


@dataclass(frozen=True)
class Outcome:
    """How a job's process ended; 0 is done, 130 is interrupted and resumable."""

    job: Job
    exit_code: int


def launch(
    jobs: Sequence[Job],
    *,
    n_parallel: int,
    options: Sequence[str] = (),
    command: Callable[[Job], Sequence[str]] = lambda job: job.experiment.command,
    on_start: Callable[[Job], None] = lambda job: None,
    on_end: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Run jobs in order, ``n_parallel`` at a time; one failure does not stop the rest.

    The command of a job is by default the one that runs its experiment.

    On Ctrl-C or SIGTERM the processes are asked to stop, leave their checkpoints, and
    KeyboardInterrupt is raised.
    """
    waiting, running, outcomes = list(jobs), dict[Process, Job](), list[Outcome]()
    with stopping(running):
        while waiting or running:
            while waiting and len(running) < n_parallel:
                job = waiting.pop(0)
                on_start(job)
                running[start([*command(job), *options], job.log, job.root)] = job
            time.sleep(POLL_SECONDS)
            for process in [p for p in running if p.poll() is not None]:
                outcomes.append(Outcome(running.pop(process), process.returncode))
                on_end(outcomes[-1])
    return outcomes


def start(command: Sequence[str], log: Path, root: Path) -> Process:
    """Start a command of ours in a session of its own, below a root, its output in a log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "NFBENCH_ROOT": str(root)},
        )


@contextmanager
def stopping(running: Collection[Process]) -> Iterator[None]:
    """Leave none of these processes behind an error, a Ctrl-C, or a SIGTERM, which is as one.

    Each is asked to leave a checkpoint and stop, and waited for.
    """
    before = signal.getsignal(signal.SIGTERM)
    install(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except BaseException:
        for process in running:
            process.send_signal(signal.SIGINT)
        for process in running:
            process.wait()
        raise
    finally:
        install(signal.SIGTERM, before)
