"""What happens beside the training: checkpoints, signals, the curve."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from nfbench import checkpoint
from nfbench.config import same_settings
from nfbench.curve import read_curve
from nfbench.errors import UsageError
from nfbench.nfe import per_solve
from nfbench.parts import Part, join, parts_of
from nfbench.processes import any_of, wait
from nfbench.record import write_atomic
from nfbench.signals import InterruptedRunError, StopRequest

from .module import DensityModule

SECONDS_BETWEEN_CHECKPOINTS = 60.0


class Checkpoints(pl.Callback):
    """Keeps ``last.pt`` (to resume from) and ``best.pt`` (the weights of the best validation).

    ``last.pt`` is written at chunk ends: every minute, after each validation, and when a signal
    asks the run to stop. Both say which experiment they are of. Of several processes the first
    writes, when one of them was asked; all read, and all stop at the same chunk end. ``last.pt``
    also says by which sources and on what its steps were taken, in a run of several parts.

    Args:
        directory: the run's.
        experiment: its identity, plain values.
        fingerprint: of its data.
        stop: whether a signal came.
        part: how this process makes its part of the run.
        first: whether this is the process that writes.
    """

    def __init__(
        self,
        directory: Path,
        experiment: dict[str, Any],
        fingerprint: str,
        stop: StopRequest,
        *,
        part: Part,
        first: bool = True,
    ) -> None:
        self.last, self.best = directory / "last.pt", directory / "best.pt"
        self.experiment, self.fingerprint, self.stop = experiment, fingerprint, stop
        self.first, self.part = first, part
        self.earlier: list[Part] = []
        self.seconds = 0.0  # of training before this process

    def resume(self, module: DensityModule) -> bool:
        """Load ``last.pt`` into the module, if there is one; tell whether there was.

        Raises:
            UsageError: if it belongs to other settings or other data.
        """
        if not self.last.exists():
            return False
        state = checkpoint.load(self.last)
        if state.get("fingerprint") != self.fingerprint:
            raise UsageError(
                f"{self.last}: expected a checkpoint on the data {self.fingerprint[:12]}, got one "
                f"on {str(state.get('fingerprint'))[:12]}; move its folder away"
            )
        theirs, ours = state["experiment"], self.experiment
        if theirs != ours and not same_settings(theirs, ours["config"]):
            raise UsageError(
                f"{self.last}: expected a checkpoint of today's settings, got one of others: the "
                "row has changed since; move its folder away"
            )
        module.model.load_state_dict(state["model"])
        module.average = state["average"]
        for name, value in state["selection"].items():
            setattr(module.selection, name, value)
        module.step, module.optimizer_state = state["step"], state["optimizer"]
        if module.nfe is not None:
            module.nfe.resume(state["nfe"], first=self.first)
        self.seconds, self.earlier = state["seconds"], parts_of(state)
        return True

    def parts(self, step: int) -> list[Part]:
        """The parts of the run up to this step; the last is this process's."""
        return join([*self.earlier, self.part | {"step": step}])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clocks; from here on signals wait for a chunk end."""
        self.started = self.saved = time.monotonic()
        self.stop.listen()
        self.stop.deferred = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let signals through again, and one that came after the last save."""
        self.stop.admit()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save at a chunk end if it is time to, unless a validation comes first."""
        assert isinstance(pl_module, DensityModule)
        if pl_module.schedule.validates_at(pl_module.step):
            return
        due = time.monotonic() - self.saved > SECONDS_BETWEEN_CHECKPOINTS
        if any(any_of(due, self.stop.received is not None, device=pl_module.device)):
            self.save(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights that were just evaluated if they are the best so far."""
        assert isinstance(pl_module, DensityModule)
        if pl_module.improved:
            self.keep(pl_module)
            pl_module.improved = False

    def keep(self, module: DensityModule) -> None:
        """Write ``best.pt``."""
        if not self.first:
            return
        state = {"model": module.model.state_dict(), "step": module.step}
        checkpoint.save(self.best, {"experiment": self.experiment, **state})

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save after a validation."""
        assert isinstance(pl_module, DensityModule)
        self.save(pl_module)

    def save(self, module: DensityModule) -> None:
        """Write ``last.pt``, unless the weights are past saving; then stop if a signal came."""
        if torch.isfinite(module.weights).all():
            self.write(module)
        self.saved = time.monotonic()
        if any(any_of(self.stop.received is not None, device=module.device)):
            wait()  # until the first has written
            raise InterruptedRunError(self.stop.received or signal.SIGTERM, module.step)

    def write(self, module: DensityModule) -> None:
        """Write ``last.pt``."""
        state = {
            "experiment": self.experiment,
            "fingerprint": self.fingerprint,
            "model": module.model.state_dict(),
            "average": module.average,
            "optimizer": module.whole_optimizer_state(),
            "selection": module.selection.state(),
            "step": module.step,
            "seconds": self.seconds + time.monotonic() - self.started,
            "parts": self.parts(module.step),
        }
        if module.nfe is not None:
            state["nfe"] = module.nfe.state()
        if self.first:
            checkpoint.save(self.last, state)


class Curve(pl.Callback):
    """Adds step, training loss, validation and learning rate to ``curve.jsonl`` at validations.

    What else logs the training gets the same line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.losses: list[torch.Tensor] = []

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Collect the chunk's losses, still on the device."""
        self.losses.append(outputs["losses"])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the interval's line; drop those of steps that a resumed run takes again."""
        assert isinstance(pl_module, DensityModule)
        if not self.losses or pl_module.summary is None:
            return
        line = {
            "step": pl_module.step,
            "train_loss": torch.cat(self.losses).double().mean().item(),
            "val_log_likelihood": pl_module.summary.mean,
            "val_log_likelihood_se": pl_module.summary.se,
            "learning_rate": pl_module.rate(),
        }
        if pl_module.nfe is not None:
            means = per_solve(pl_module.nfe.finished)
            line |= {f"nfe_{phase}": value for phase, value in means.items()}
        self.losses = []
        kept = [earlier for earlier in read_curve(self.path) if earlier["step"] < pl_module.step]
        write_atomic(self.path, "".join(json.dumps(each) + "\n" for each in [*kept, line]))
        for logger in trainer.loggers:
            logger.log_metrics(line, step=pl_module.step)
