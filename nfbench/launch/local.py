"""Local processes: a few cells at a time, one process each, a log each. Imports no torch."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nfbench.signals import install

from .plan import Job

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Outcome:
    """How a job's process ended; 0 is done, 130 is interrupted and resumable."""

    job: Job
    exit_code: int


@dataclass
class Running:
    """A job and its process."""

    job: Job
    process: subprocess.Popen[bytes]


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
    waiting, running, outcomes = list(jobs), list[Running](), list[Outcome]()
    before = signal.getsignal(signal.SIGTERM)
    install(signal.SIGTERM, signal.default_int_handler)
    try:
        while waiting or running:
            while waiting and len(running) < n_parallel:
                job = waiting.pop(0)
                on_start(job)
                running.append(Running(job, start(job, [*command(job), *options])))
            time.sleep(POLL_SECONDS)
            for ended in [r for r in running if r.process.poll() is not None]:
                running.remove(ended)
                outcomes.append(Outcome(ended.job, ended.process.returncode))
                on_end(outcomes[-1])
    except BaseException:
        stop(running)
        raise
    finally:
        install(signal.SIGTERM, before)
    return outcomes


def start(job: Job, command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a command for a job in a session of its own, its output in the job's log."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "NFBENCH_ROOT": str(job.root)},
        )


def stop(running: Sequence[Running]) -> None:
    """Ask every process to leave a checkpoint and stop; wait for them."""
    for each in running:
        each.process.send_signal(signal.SIGINT)
    for each in running:
        each.process.wait()
