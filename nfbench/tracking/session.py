"""A run in W&B from its first step to its record; whatever fails there costs the run nothing."""

import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from nfbench.config import Experiment
from nfbench.errors import UsageError
from nfbench.exits import FAILED
from nfbench.provenance import git
from nfbench.record import Record, run_dir
from nfbench.signals import InterruptedRunError

from .identity import identify
from .log_file import last_log, read_log
from .logger import RunLogger
from .mode import choose

log = logging.getLogger("nfbench")
SIGNALLED = 128  # what a shell adds to a signal for an exit code
COLUMNS = 8  # of a grid of sampled images


class Session:
    """What W&B hears of a run, as a context manager around it.

    W&B is imported, and a run started there, when something is first logged; a run that is
    stopped by a signal is marked so, and never as finished.

    Args:
        experiment: what is run.
        root: the folder that holds runs/.
        asked: ``auto``, ``online``, ``offline`` or ``disabled``.

    Raises:
        UsageError: another mode.
    """

    def __init__(self, experiment: Experiment, root: Path, asked: str) -> None:
        self.experiment, self.directory = experiment, run_dir(experiment, root)
        self.logger: RunLogger | None = None
        mode = self.mode(asked)
        if mode != "disabled":
            version = git(root, "describe", "--tags", "--always", "--dirty")
            self.logger = RunLogger(identify(experiment, version), self.directory, mode)

    def mode(self, asked: str) -> str:
        """The mode asked for, or disabled where wandb is absent or set up in a way it refuses."""
        try:
            return choose(asked)
        except (UsageError, InterruptedRunError):
            raise
        except Exception as error:
            log.warning("W&B: not tracked: %s", " ".join(str(error).split()))
            return "disabled"

    def __enter__(self) -> "Session":
        """Nothing is started yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Finish what was started, with an exit code that says how the run ended."""
        if isinstance(error, InterruptedRunError):
            self.finish(SIGNALLED + error.received, preempted=True)
        elif isinstance(error, KeyboardInterrupt):
            self.finish(SIGNALLED + signal.SIGINT, preempted=True)
        else:
            self.finish(FAILED if error else 0)

    def finish(self, exit_code: int, *, preempted: bool = False) -> None:
        """Finish the run in W&B, if it was started and is not finished yet."""
        logger, self.logger = self.logger, None
        if logger:
            logger.finish(exit_code, preempted=preempted)

    def report(self, result: Record) -> None:
        """Tell what the record says, with the figures of the run, and finish."""
        if self.logger is None:
            return
        run = self.logger.experiment
        if not self.logger.failed:
            with self.logger.forgiving():
                run.summary.update(summary_of(result))
                if images := dict(self.images(result)):
                    run.log(images)
        self.finish(FAILED if result.failure else 0)

    def images(self, result: Record) -> Iterator[tuple[str, Any]]:
        """The figure that `nfbench plot` draws of the run, and its samples if they are images."""
        import wandb

        from nfbench.figures import is_plane, read_arrays
        from nfbench.imaging import grid, to_bytes
        from nfbench.portrait import portrait

        e = self.experiment
        heading = " ".join([f"{e.title} on {e.cell}, seed {e.seed}", *e.overrides])
        if path := portrait(self.directory, heading, result):
            yield "plot", wandb.Image(str(path))
        arrays = read_arrays(self.directory / "pictures.npz")
        if arrays and not is_plane(arrays):
            white = float(arrays["real"].max())
            yield "samples", wandb.Image(grid(to_bytes(arrays["samples"], white), COLUMNS))


def report_late(experiment: Experiment, root: Path, asked: str, result: Record) -> None:
    """Tell W&B what a record says, if the run was killed after it wrote it and before it could.

    Raises:
        UsageError: another mode.
    """
    if asked != "disabled" and (last := last_log(run_dir(experiment, root))):
        try:
            told = read_log(last).exit_code == 0
        except (UsageError, ImportError):  # `nfbench wandb sync` tells of a log it cannot read
            return
        if not told:
            with Session(experiment, root, asked) as session:
                session.report(result)


def summary_of(result: Record) -> dict[str, Any]:
    """The numbers of a record as summary keys, flat: never what W&B has aggregated."""
    if result.failure:
        return {"failure": result.failure["kind"]}
    speed = {f"speed/{key}": value for key, value in result.speed.items()}
    nfe = {f"nfe/{key}": value for key, value in result.likelihood.get("nfe", {}).items()}
    best = {
        "best/step": result.model["best_step"],
        "best/val_log_likelihood": result.metrics.get("val/log_likelihood"),
    }
    found = result.metrics | best | speed | nfe
    found["n_parameters"] = result.model["n_parameters"]
    found["likelihood"] = result.likelihood["kind"]
    return {key: value for key, value in found.items() if isinstance(value, int | float | str)}
