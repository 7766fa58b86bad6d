"""Lightning's WandbLogger with a `wandb.init` of our own, that costs no run anything."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import _DummyExperiment, rank_zero_experiment
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.loggers import WandbLogger

from nfbench.signals import InterruptedRunError

from .identity import Identity
from .log_file import STEP, marker
from .mode import SETTINGS

log = logging.getLogger("nfbench")
NAMES = {  # of the curve's numbers, beside whose step they stand
    "train_loss": "train/loss",
    "val_log_likelihood": "val/log_likelihood",
    "val_log_likelihood_se": "val/log_likelihood_se",
    "learning_rate": "train/learning_rate",
}


class RunLogger(WandbLogger):
    """Logs the curve of a run to W&B; what fails is told once, and then nothing more is logged.

    Args:
        identity: how W&B files the run.
        directory: the run's, in which wandb/ is.
        mode: ``online`` or ``offline``.
    """

    def __init__(self, identity: Identity, directory: Path, mode: str) -> None:
        super().__init__(
            project=identity.project,
            save_dir=str(directory.resolve()),
            id=identity.id,
            name=identity.name,
            group=identity.group,
            job_type=identity.job_type,
            tags=list(identity.tags),
            config=identity.config,
            mode=mode,  # `offline=True` would leave WANDB_MODE behind
            resume="allow",
            reinit="create_new",  # two runs of one process are two runs
        )
        del self._wandb_init["anonymous"]  # which wandb is about to refuse
        self.failed = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run, started when first asked for; a stand-in that does nothing if that fails."""
        if self._experiment is None and not self.failed:
            with self.forgiving():
                self._experiment = self.start()
        return _DummyExperiment() if self.failed else self._experiment

    def start(self) -> Any:
        """A run in W&B: that of the process that spawned this one, or new; offline if refused."""
        import wandb

        if attached := getattr(self, "_attach_id", None):
            return wandb._attach(attached)  # type: ignore[attr-defined]
        settings = wandb.Settings(**SETTINGS)
        try:
            run = wandb.init(**self._wandb_init, settings=settings)
        except wandb.errors.Error as error:
            if self._wandb_init["mode"] == "offline":
                raise
            log.warning("W&B: offline, as the server did not take the run: %s", error)
            self._wandb_init["mode"] = "offline"
            wandb.teardown()  # else the run that it tried in vain keeps the id
            run = wandb.init(**self._wandb_init, settings=settings)
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP, step_sync=True)
        return run

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log the numbers of a line of the curve at its step."""
        numbers = {name_of(key): value for key, value in metrics.items() if key != "step"}
        with self.forgiving():
            self.experiment.log({**numbers, STEP: metrics.get("step", step)})

    def finish(self, exit_code: int, *, preempted: bool = False) -> None:
        """Finish the run, if it was started; a log that W&B has taken online is marked so."""
        if self._experiment:
            with self.forgiving():
                if preempted:
                    self.experiment.mark_preempting()
                self._experiment.finish(exit_code=exit_code)
                if self._wandb_init["mode"] == "online":
                    marker(Path(self._experiment.settings.sync_file)).touch()

    @contextmanager
    def forgiving(self) -> Iterator[None]:
        """Give W&B up at an error, with a warning, but for a signal's: no view is worth a run."""
        try:
            yield
        except InterruptedRunError:
            raise
        except Exception as error:
            self.failed = True
            log.warning(
                "W&B: nothing more is logged: %s; what was is in %s/wandb",
                " ".join(str(error).split()) or type(error).__name__,
                self.save_dir,
            )


def name_of(key: str) -> str:
    """What W&B calls a number of the curve, with the section of its charts before a slash."""
    return NAMES.get(key, key.replace("nfe_", "nfe/", 1))
