"""How far a run is: a bar on a terminal, lines in a log."""

import logging
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from nfbench.nfe import in_words

from .module import DensityModule

log = logging.getLogger("nfbench")


class ProgressBar(pl.Callback):
    """A bar on a terminal, a log line per validation elsewhere.

    Args:
        label: what is running.
        unit: ``nats`` or ``bits/dim``.
        show: from a log-likelihood in nats to a number in ``unit``.
    """

    def __init__(
        self, label: str, unit: str, show: Callable[[float], float], *, bar: bool
    ) -> None:
        self.label, self.unit, self.show, self.bar = label, unit, show, bar
        self.progress: Progress | None = None
        self.train = ""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the bar where the run starts."""
        assert isinstance(pl_module, DensityModule)
        if self.bar:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[now]}"),
            )
            self.progress = Progress(
                *columns, TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn()
            )
            self.progress.start()
            total = pl_module.schedule.max_steps
            self.task = self.progress.add_task(
                self.label, total=total, completed=pl_module.step, now=""
            )

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Show the chunk's mean."""
        if self.progress:
            assert isinstance(pl_module, DensityModule)
            nfe = in_words(pl_module.nfe.chunk) if pl_module.nfe else ""
            self.train = f"train {self.show(-outputs['losses'].mean().item()):.3f}{nfe}"
            self.refresh(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the validation."""
        assert isinstance(pl_module, DensityModule)
        if pl_module.summary is not None and trainer.state.fn == "fit":
            if self.progress:
                self.refresh(pl_module)
            else:
                nfe = in_words(pl_module.nfe.finished) if pl_module.nfe else ""
                log.info(
                    "%s: step %s, val %s%s",
                    self.label,
                    pl_module.step,
                    self.value(pl_module.summary.mean),
                    nfe,
                )

    def value(self, nats: float) -> str:
        """A log-likelihood as shown."""
        return f"{self.show(nats):.4f} {self.unit}"

    def refresh(self, module: pl.LightningModule) -> None:
        """Redraw the bar."""
        assert isinstance(module, DensityModule) and self.progress
        best = module.selection.best
        val = f"best val {self.value(best)}" if module.selection.best_step else self.unit
        self.progress.update(self.task, completed=module.step, now=f"{self.train}  {val}")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the terminal as it was."""
        if self.progress:
            self.progress.stop()
            self.progress = None

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Leave the terminal as it was."""
        self.teardown(trainer, pl_module, "fit")
