"""Lightning's WandbLogger with a `wandb.init` of our own, that costs no run anything."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.loggers import WandbLogger

from .identity import Identity
from .mode import SETTINGS

log = logging.getLogger("nfbench")
NAMES = {  # of the curve's numbers, beside whose step they stand
    "train_loss": "train/loss",
    "val_log_likelihood": "val/log_likelihood",
    "val_log_likelihood_se": "val/log_likelihood_se",
    "learning_rate": "train/learning_rate",
}
STEP = "trainer/global_step"


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
        """The run, started when it is first asked for; offline if the server refuses it."""
        if self._experiment is None:
            import wandb

            attached = getattr(self, "_attach_id", None)
            if attached is not None:  # in a process that Lightning spawned
                self._experiment = wandb._attach(attached)  # type: ignore[attr-defined]
                return self._experiment
            settings = wandb.Settings(**SETTINGS)
            try:
                self._experiment = wandb.init(**self._wandb_init, settings=settings)
            except wandb.errors.Error as error:
                if self._wandb_init["mode"] == "offline":
                    raise
                log.warning("W&B: offline, as the server did not take the run: %s", error)
                self._wandb_init["mode"] = "offline"
                self._experiment = wandb.init(**self._wandb_init, settings=settings)
            self._experiment.define_metric(STEP)
            self._experiment.define_metric("*", step_metric=STEP, step_sync=True)
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log the numbers of a line of the curve at its step."""
        if self.failed:
            return
        numbers = {name_of(key): value for key, value in metrics.items() if key != "step"}
        try:
            self.experiment.log({**numbers, STEP: metrics.get("step", step)})
        except Exception as error:
            self.failed = True
            log.warning("W&B: nothing more is logged: %s", error)


def name_of(key: str) -> str:
    """What W&B calls a number of the curve, with the section of its charts before a slash."""
    return NAMES.get(key, key.replace("nfe_", "nfe/", 1))
