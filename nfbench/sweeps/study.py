"""The trials of a sweep, in a journal that processes on many machines share. Imports no torch.

A trial is being run by whoever holds the lock of its run's folder. One that nobody runs though it
was begun is taken up again under its number, and goes on from the run's last checkpoint, unless
so many processes have died of it that it counts as failed; one that repeats the settings of
another takes over its outcome. So no trial is lost, run by two at once or counted twice, whoever
dies when.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import optuna
from filelock import FileLock, Timeout
from optuna.samplers import BaseSampler, GridSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from nfbench.errors import UsageError
from nfbench.record import run_dir
from nfbench.seeds import mix
from nfbench.signals import InterruptedRunError

from .result import DONE, FAILED
from .space import Range, Sweep

RUNNING = "running"
STATES = {TrialState.COMPLETE: DONE, TrialState.FAIL: FAILED}
# What Optuna keeps of ours, of a study and of a trial.
SWEEP, OUTCOME, ATTEMPTS = "sweep", "outcome", "attempts"
MOST_ATTEMPTS = 3  # at a trial, that end with their process
MOST_RANDOM = 10  # trials that TPE draws at random to start from, or a quarter if these are fewer


@dataclass(frozen=True)
class Outcome:
    """What a trial gave.

    Args:
        value: the best validation log-likelihood in nats, which is maximized; None if it failed.
        step: after how many optimizer steps that was.
        steps: how many were taken.
        stop_reason: why no more.
        seconds: of training.
        reason: why there is no value.
        same_as: the number of the trial with these settings that was run in its stead.
        device, git, dirty: on what, and by which sources.
    """

    value: float | None = None
    step: int | None = None
    steps: int | None = None
    stop_reason: str | None = None
    seconds: float = 0.0
    reason: str | None = None
    same_as: int | None = None
    device: str | None = None
    git: str | None = None
    dirty: bool | None = None


@dataclass(frozen=True)
class Trial:
    """A trial of the sweep and how far it is."""

    number: int
    words: tuple[str, ...]  # its overrides
    state: str
    outcome: Outcome


@dataclass(frozen=True)
class Standing:
    """How far a sweep is: how many trials have ended, and the best of them."""

    n_ended: int
    best: Trial | None

    def __str__(self) -> str:
        """In words."""
        if self.best is None:
            return "none with a number"
        return f"best {value_of(self.best):.4f} nats of trial {self.best.number}"


def standing(trials: Sequence[Trial]) -> Standing:
    """How far a sweep with these trials is."""
    done = [trial for trial in trials if trial.state == DONE]
    n_ended = sum(trial.state != RUNNING for trial in trials)
    return Standing(n_ended, max(done, key=value_of, default=None))


def value_of(trial: Trial) -> float:
    """The value of a trial that has one."""
    assert trial.outcome.value is not None
    return trial.outcome.value


class Study:
    """The journal of a sweep, begun if there is none.

    Raises:
        UsageError: the journal is of another sweep, or cannot be read.
    """

    def __init__(self, sweep: Sweep) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sweep.folder.mkdir(parents=True, exist_ok=True)
        self.sweep, self.journal = sweep, sweep.folder / "journal.log"
        self.lock = FileLock(sweep.folder / "claim.lock")
        with self.lock:
            self.study = self.open()
            if SWEEP not in self.study.user_attrs:
                self.study.set_user_attr(SWEEP, sweep.identity())
        if not sweep.matches(self.study.user_attrs[SWEEP]):
            raise UsageError(
                f"{self.journal}: a journal of other settings, as the sweep or its row has "
                f"changed since; move {sweep.folder} away to search again"
            )

    def open(self) -> optuna.Study:
        """The study in the journal."""
        try:
            return optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(self.journal))),
                study_name=self.sweep.name,
                direction="maximize",
                load_if_exists=True,
                sampler=RandomSampler(),  # only those that draw() makes are ever asked
            )
        except (ValueError, KeyError) as error:
            raise UsageError(
                f"{self.journal}: expected a journal of Optuna, got {error}; a line that a crash "
                "has cut may be removed"
            ) from error

    def trials(self) -> list[Trial]:
        """All trials that have their settings, in order."""
        return [self.read(t) for t in self.study.get_trials(deepcopy=False) if self.whole(t)]

    @property
    def started(self) -> datetime:
        """When the first trial began."""
        first = self.study.get_trials(deepcopy=False)[0].datetime_start
        assert first is not None
        return first.astimezone(UTC)

    def whole(self, trial: FrozenTrial) -> bool:
        """Whether all values of a trial are drawn."""
        return set(trial.params) == set(self.sweep.space)

    def read(self, trial: FrozenTrial) -> Trial:
        """Optuna's trial as ours."""
        outcome = Outcome(**trial.user_attrs.get(OUTCOME, {}))
        state = STATES.get(trial.state, RUNNING)
        return Trial(trial.number, self.sweep.words(trial.params), state, outcome)

    @contextmanager
    def claim(self) -> Iterator[Trial | None]:
        """A trial to run, whose run no other process touches meanwhile; None if none is left.

        Trials begun by processes that are gone come first, then a new one. An attempt that a
        signal interrupts does not count.
        """
        lock = None
        try:
            with self.lock:
                self.complete()
                trials = self.trials()
                for trial in [t for t in trials if t.state == RUNNING]:
                    if lock := self.take(trial, trials):
                        break
                while lock is None and len(trials) < self.sweep.trials:
                    self.draw(None)
                    trials = self.trials()
                    trial = trials[-1]
                    lock = self.take(trial, trials)
            yield trial if lock else None
        except InterruptedRunError:
            if lock:
                self.count(trial.number, -1)
            raise
        finally:
            if lock:
                lock.release()

    def take(self, trial: Trial, trials: list[Trial]) -> FileLock | None:
        """The lock of a trial that is to be run, held; None if it is run elsewhere, or settled."""
        folder = run_dir(self.sweep.experiment(trial.words), self.sweep.root)
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "run.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return None
        # Whoever held the lock may have finished this trial, or its twin, since they were read.
        for other in self.trials():
            if other.state == RUNNING or other.words != trial.words:
                continue
            if other.number != trial.number:
                self.tell(trial.number, twin_of(other))
            lock.release()
            return None
        if self.count(trial.number, 1) > MOST_ATTEMPTS:
            reason = f"{MOST_ATTEMPTS} processes died of it, see their log"
            self.tell(trial.number, Outcome(reason=reason))
            lock.release()
            return None
        return lock

    def count(self, number: int, change: int) -> int:
        """The attempts at a trial, one more or less; whoever asks holds the lock of its run."""
        trial = self.study.get_trials(deepcopy=False)[number]
        attempts = int(trial.user_attrs.get(ATTEMPTS, 0)) + change
        optuna.Trial(self.study, trial._trial_id).set_user_attr(ATTEMPTS, attempts)
        return attempts

    def complete(self) -> None:
        """Draw what is missing of trials whose process was killed while it drew."""
        for trial in self.study.get_trials(deepcopy=False):
            if not self.whole(trial):
                self.draw(trial)

    def draw(self, begun: FrozenTrial | None) -> None:
        """Draw the values of a new trial, or the rest of one that was begun.

        Each draws from a stream of its own, so that what is drawn does not depend on who does it.
        """
        trials = self.study.get_trials(deepcopy=False)
        number = len(trials) if begun is None else begun.number
        before = self.study.sampler
        self.study.sampler = sampler(self.sweep, number)
        try:
            trial = (
                self.study.ask() if begun is None else optuna.Trial(self.study, begun._trial_id)
            )
            for key, where in self.sweep.space.items():
                if not isinstance(where, Range):
                    trial.suggest_categorical(key, where)
                elif where.integer:
                    ends = int(where.low), int(where.high)
                    trial.suggest_int(key, *ends, step=int(where.step or 1), log=where.log)
                else:
                    trial.suggest_float(key, where.low, where.high, step=where.step, log=where.log)
        finally:
            self.study.sampler = before

    def tell(self, number: int, outcome: Outcome) -> None:
        """Finish a trial."""
        trial = self.study.get_trials(deepcopy=False)[number]
        optuna.Trial(self.study, trial._trial_id).set_user_attr(OUTCOME, vars(outcome))
        if outcome.value is None:
            self.study.tell(number, state=TrialState.FAIL)
        else:
            self.study.tell(number, outcome.value)


def twin_of(other: Trial) -> Outcome:
    """The outcome of a trial with the settings of one that is finished."""
    found = other.outcome
    same_as = other.number if found.same_as is None else found.same_as
    return Outcome(**vars(found) | {"same_as": same_as, "seconds": 0.0})


def sampler(sweep: Sweep, number: int) -> BaseSampler:
    """What draws the trial of this number."""
    seed = mix(sweep.head.sampler_seed, number) % 2**32
    if sweep.head.sampler == "grid":
        choices = {k: where for k, where in sweep.space.items() if not isinstance(where, Range)}
        return GridSampler(choices, seed=sweep.head.sampler_seed)
    if sweep.head.sampler == "random":
        return RandomSampler(seed=seed)
    return TPESampler(
        seed=seed,
        constant_liar=True,
        n_startup_trials=min(MOST_RANDOM, max(1, sweep.trials // 4)),
    )
