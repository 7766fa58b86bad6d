"""A run as far as its validation: what selects a trial. The test split is left alone."""

import logging
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nfbench import provenance
from nfbench.config import Experiment
from nfbench.errors import FailedRunError, UsageError
from nfbench.machine import Means, torch_device, trainer
from nfbench.run import describe_model, prepare, train
from nfbench.signals import InterruptedRunError, StopRequest

from .study import Outcome

log = logging.getLogger("nfbench")
EXPECTED = FailedRunError, UsageError, torch.OutOfMemoryError  # their message says it all
# After such an error of an accelerator every call fails, so that only another process can tell
# whether it was the trial's.
LOST = "CUDA error"


def attempt(
    experiment: Experiment, root: Path, *, device: str, threads: int, bar: bool
) -> Outcome:
    """Train and validate, from the last checkpoint on; a failure of any kind is an outcome too.

    The caller holds the lock of the run's folder. ``nfbench.run.run`` goes on from what is left
    here, at the test.

    Raises:
        InterruptedRunError: if a signal stopped it; the next call goes on.
        RuntimeError: if the accelerator is lost to this process.
    """
    torch.set_num_threads(threads)
    place = torch_device(device)
    origin = Outcome(device=provenance.device_name(place), **provenance.commit(root))
    clock = time.monotonic()
    with StopRequest() as stop:
        try:
            found = validated(experiment, root, place, bar, stop)
            return replace(origin, **found)
        except InterruptedRunError:
            raise
        except Exception as error:
            if str(error).startswith(LOST):
                raise
            seconds = round(time.monotonic() - clock, 1)
            return replace(origin, reason=reason_of(error), seconds=seconds)


def reason_of(error: Exception) -> str:
    """What failed, in a line; of what nobody foresaw its kind, and a traceback in the log."""
    message = " ".join(str(error).split())
    if isinstance(error, EXPECTED):
        return message
    log.warning("a trial failed", exc_info=error)
    return f"{type(error).__name__}: {message}"


def validated(
    experiment: Experiment, root: Path, device: torch.device, bar: bool, stop: StopRequest
) -> dict[str, Any]:
    """The best validation of a run, and when it was.

    Raises:
        FailedRunError: if a loss, or every validation, is not finite.
    """
    clock = time.monotonic()
    module, data, checkpoints = prepare(experiment, root, Means(device), stop)
    train(module, data, checkpoints, root, bar)
    best = module.selection.best
    if not module.step:  # fitted in closed form, with no validation on the way
        trainer(device, []).validate(module, datamodule=data, verbose=False)
        assert module.summary is not None
        best = module.summary.mean
    if not math.isfinite(best):
        raise FailedRunError(
            "no finite validation", "no validation log-likelihood was finite", step=module.step
        )
    model = describe_model(module, failed=False)
    return {
        "value": best,
        "step": model["best_step"],
        "steps": model["steps"],
        "stop_reason": model["stop_reason"],
        "seconds": round(checkpoints.seconds + time.monotonic() - clock, 1),
    }
