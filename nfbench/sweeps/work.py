"""What each process of a sweep does: trials while there are any, and the last one the end."""

import logging
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from filelock import FileLock, Timeout

from nfbench import provenance
from nfbench.data.manage import status
from nfbench.errors import UsageError
from nfbench.run import run

from . import result
from .pages import render
from .result import Result, best_of, finished
from .space import Sweep
from .study import RUNNING, Study, Trial, standing
from .trial import attempt

log = logging.getLogger("nfbench")


def work(sweep: Sweep, *, device: str = "auto", threads: int = 1, bar: bool = False) -> bool:
    """Run trials until none is left to begin; then, if none is running either, the winner's test.

    Any number of processes may do so at once. Tells whether the record of the sweep is there.

    Raises:
        UsageError: the journal or a record is of other settings, data are missing, or no trial
            has a number.
        InterruptedRunError: a signal came; the next call goes on.
    """
    if finished(sweep):
        return True
    name = sweep.base.data.name
    if (state := status(name).state) != "ready":
        raise UsageError(f"data set {name} is {state}; see nfbench data verify {name}")
    study = Study(sweep)
    while True:
        with study.claim() as trial:
            if trial is None:
                break
            log.info("trial %d: %s", trial.number, " ".join(trial.words))
            experiment = sweep.experiment(trial.words)
            outcome = attempt(experiment, sweep.root, device=device, threads=threads, bar=bar)
            study.tell(trial.number, outcome)
        log.info("%s", told(study, trial.number))
    if running := [str(t.number) for t in study.trials() if t.state == RUNNING]:
        log.info("no trial left to begin; run by others: %s", ", ".join(running))
        return False
    try:
        with FileLock(sweep.folder / "end.lock", blocking=False):
            if not finished(sweep):
                end(sweep, study, device=device, threads=threads)
            return True
    except Timeout:
        log.info("another process tests the winner")
        return False


def told(study: Study, number: int) -> str:
    """What a trial gave, and how far the sweep is."""
    trials = study.trials()
    outcome = trials[number].outcome
    gave = f"val {outcome.value:.4f} nats" if outcome.reason is None else outcome.reason
    now = standing(trials)
    return f"trial {number}: {gave}; {now.n_ended} of {study.sweep.trials} trials done, {now}"


def end(sweep: Sweep, study: Study, *, device: str, threads: int) -> None:
    """Test the winner by validation, write the record of the sweep, and render it.

    Raises:
        UsageError: no trial has a number.
    """
    trials = study.trials()
    rows = [row_of(sweep, trial) for trial in trials]
    winner = best_of(rows)
    if winner is None:
        raise UsageError(
            f"{sweep.name}: no trial has a number; the first: {rows[0]['reason']}; "
            f"move {sweep.folder} away to search again"
        )
    log.info("the winner is trial %d: test", winner)
    record = run(
        sweep.experiment(trials[winner].words),
        root=sweep.root,
        device=device,
        threads=threads,
        wandb="disabled",  # as no trial is tracked
    )
    found = Result(
        sweep=sweep.identity(),
        trials=rows,
        winner=winner,
        record=asdict(record),
        provenance=origin(sweep, study, trials),
    )
    path = result.write(found, sweep.root)
    log.info("wrote %s", path.relative_to(sweep.root))
    render(sweep.name, sweep.root)


def row_of(sweep: Sweep, trial: Trial) -> dict[str, Any]:
    """A trial as the record of the sweep has it."""
    overrides = list(sweep.experiment(trial.words).overrides)
    own: Mapping[str, Any] = {"number": trial.number, "overrides": overrides, "state": trial.state}
    return {**own, **asdict(trial.outcome)}


def origin(sweep: Sweep, study: Study, trials: list[Trial]) -> dict[str, Any]:
    """The section of the record on how it was made."""
    sources = provenance.commit(sweep.root)
    return {
        **sources,
        "versions": provenance.versions() | {"optuna": version("optuna")},
        "devices": sorted({t.outcome.device for t in trials if t.outcome.device}),
        "command": shlex.join(sweep.command),
        "started": study.started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(sum(trial.outcome.seconds for trial in trials), 1),
    }
