"""run(experiment) -> Record: the whole path from data to record, fresh or resumed."""

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from pytorch_lightning import Callback
from pytorch_lightning.loggers import Logger

from nfbench import checkpoint, provenance, record
from nfbench.atomic import replacing
from nfbench.audit import Audit, audit
from nfbench.build import build_data, build_model
from nfbench.callbacks import Checkpoints, Curve
from nfbench.config import Experiment
from nfbench.data.base import DataModule
from nfbench.errors import FailedRunError, UsageError
from nfbench.evaluation import Metrics, describe_likelihood, evaluate
from nfbench.machine import Means, quiet_lightning, torch_device, trainer
from nfbench.metrics import bits_per_dim
from nfbench.module import DensityModule, NonFiniteLossError
from nfbench.pictures import save_pictures
from nfbench.processes import leave
from nfbench.progress import ProgressBar
from nfbench.record import Record
from nfbench.signals import StopRequest
from nfbench.speed import BATCH, Speed, measure
from nfbench.tracking.session import Session, report_late
from nfbench.training import build_module, build_schedule
from nfbench.world import world

log = logging.getLogger("nfbench")


def run(
    experiment: Experiment,
    *,
    root: Path | None = None,
    device: str = "auto",
    threads: int = 1,
    compile: bool = False,
    shard: bool = False,
    bar: bool = False,
    wandb: str = "auto",
) -> Record:
    """Train, select, test and write the record of one cell; go on from its last checkpoint.

    Of several processes (see `world`) the first writes and is tracked; all return the record, but
    for its audit and its speed.

    A finished cell is returned as it is. A run without a number (a loss that is not finite, say)
    leaves a record that says so, and may be tried again. ``shard`` is for several processes: each
    keeps the optimizer's state of its part of the weights. ``wandb`` is ``auto``, ``online``,
    ``offline`` or ``disabled``; W&B shows the run and has no part in the record.

    Raises:
        UsageError: if data, settings or an earlier checkpoint do not fit, or the cell is running
            in another process.
        InterruptedRunError: if a signal stopped it; the next call goes on.
    """
    root, first = root or record.find_root(), world().is_first
    path = record.record_path(experiment, root)
    directory = record.run_dir(experiment, root)
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / "run.lock", blocking=False) if first else nullcontext()
    try:
        with lock:
            if path.exists() and (found := record.read(path)).status == "done":
                if not experiment.matches(found):
                    raise UsageError(
                        f"{path}: a record of other settings; move it away to run again"
                    )
                log.info("%s: finished already", path.relative_to(root))
                if first:
                    report_late(experiment, root, wandb, found)
                return found
            torch.set_num_threads(threads)
            tracked = wandb if first else "disabled"
            with StopRequest() as stop, Session(experiment, root, tracked) as session:
                means = Means(torch_device(device), compile, shard)
                result = execute(experiment, root, means, bar, stop, session.logger)
                stop.deferred = True  # there is nothing left to stop
                if first:
                    log.info("wrote %s", record.write(result, root).relative_to(root))
                    session.report(result)
                leave()
            return result
    except Timeout:
        raise UsageError(f"{directory}: another process is running this cell") from None


def execute(
    experiment: Experiment,
    root: Path,
    means: Means,
    bar: bool,
    stop: StopRequest,
    logger: Logger | None,
) -> Record:
    """Build, train and evaluate; the record of it."""
    clock = time.monotonic()
    module, data, checkpoints = prepare(experiment, root, means, stop)
    failure, metrics, checks, speed = None, Metrics(), Audit(), Speed()
    try:
        train(module, data, checkpoints, root, bar, logger)
        metrics, checks, speed = test(module, data, checkpoints)
    except FailedRunError as error:
        failure = error.failure
        failure["step"] = module.step if failure["step"] is None else failure["step"]
        log.error("%s", error)
    seconds = checkpoints.seconds + time.monotonic() - clock
    return Record(
        status="failed" if failure else "done",
        experiment=experiment.identity(),
        metrics=metrics,
        likelihood=describe_likelihood(module),
        audit=checks,
        speed=speed,
        model=describe_model(module, failed=failure is not None),
        data=data.describe(),
        provenance=provenance.describe(
            experiment, module, checkpoints.parts(module.step), seconds
        ),
        failure=failure,
    )


def prepare(
    experiment: Experiment, root: Path, means: Means, stop: StopRequest
) -> tuple[DensityModule, DataModule, Checkpoints]:
    """Read the data and build the module, as its last checkpoint has it if there is one."""
    quiet_lightning()
    begun = provenance.begin(root)
    data = build_data(experiment)
    data.setup()
    data.to(means.device)
    schedule = build_schedule(experiment, data.order.steps_per_epoch)
    model = build_model(experiment, data.dataset)
    if model.needs_calibration and data.is_mapped:
        raise UsageError(
            f"{experiment.table}/{experiment.row}: expected a flow without statistics of the "
            f"training set, as {data.dataset.name} is not held in memory; batch_norm=false "
            "takes none, and flows of images keep running ones"
        )
    module = build_module(
        experiment, model, schedule, compile=means.compile, shard=means.shard, root=root
    ).to(means.device)
    checkpoints = Checkpoints(
        record.run_dir(experiment, root),
        experiment.identity(),
        data.fingerprint,
        stop,
        part=begun | provenance.means(module),
        first=world().is_first,
    )
    if checkpoints.resume(module):
        log.info("going on from step %d (%s)", module.step, checkpoints.last.relative_to(root))
    return module, data, checkpoints


def train(
    module: DensityModule,
    data: DataModule,
    checkpoints: Checkpoints,
    root: Path,
    bar: bool,
    logger: Logger | None = None,
) -> None:
    """Fit until the schedule or patience ends it, from where the module stands.

    Raises:
        FailedRunError: if a loss is not finite; names step, batch and last good checkpoint.
    """
    if module.schedule.ends_at(module.step) or module.selection.exhausted:
        return
    data.schedule, data.step = module.schedule, lambda: module.step
    directory = checkpoints.last.parent
    label = directory.relative_to(root / "runs").as_posix()
    callbacks: list[Callback] = [checkpoints]
    if checkpoints.first:
        callbacks += [
            Curve(directory / "curve.jsonl"),
            ProgressBar(label, *shown_in(data), bar=bar),
        ]
    try:
        trainer(module.device, callbacks, logger).fit(module, datamodule=data)
    except NonFiniteLossError as error:
        last = checkpoints.last
        good = last.relative_to(root).as_posix() if last.exists() else None
        raise failure_of(error, data, good) from error


def failure_of(error: NonFiniteLossError, data: DataModule, good: str | None) -> FailedRunError:
    """Where a loss was not finite, and what to try."""
    epoch, batch = divmod(error.step, data.order.steps_per_epoch)
    rows = data.order.indices(error.step, error.step + 1)[0].tolist()
    return FailedRunError(
        "non-finite loss",
        f"{error} (epoch {epoch}, batch {batch}, training rows {rows[:3]}...); last good "
        f"checkpoint: {good or 'none'}; try a bounded scale (flow.scale=tanh), "
        "training.clip_norm=5 or a lower training.learning_rate",
        step=error.step,
        batch={"epoch": epoch, "batch": batch, "first_rows": rows[:3]},
        checkpoint=good,
    )


def test(
    module: DensityModule, data: DataModule, checkpoints: Checkpoints
) -> tuple[Metrics, Audit, Speed]:
    """Evaluate, audit and time the best weights; leave what figures need beside the checkpoints.

    Raises:
        FailedRunError: if no validation was finite, or a log-likelihood is not.
    """
    device = data.device
    module.to(device)  # Lightning has left it on the CPU
    if module.step and checkpoints.best.exists():
        best = checkpoint.load(checkpoints.best, device)
        module.model.load_state_dict(best["model"])
    elif module.step:
        message = "no validation log-likelihood was finite"
        raise FailedRunError("no finite validation", message, step=module.step)
    module.average = None  # the best weights are the averaged ones already
    try:
        metrics, values = evaluate(module, data, trainer(device, []))
    except ValueError as error:
        raise FailedRunError("evaluation refused", str(error), step=module.step) from error
    if not module.step:
        checkpoints.keep(module)  # what calibration alone has fitted
    if not checkpoints.first:
        return metrics, Audit(), Speed()
    directory = checkpoints.best.parent
    with replacing(directory / "test_log_prob.npz") as file:
        np.savez_compressed(file, log_prob=values.numpy().astype(np.float32))
    module.to(device).eval()
    with replacing(directory / "pictures.npz") as file:
        save_pictures(module.model, data, file)
    if module.nfe is not None:
        module.nfe.sample(BATCH)
    return metrics, audit(module.model, data.test), measure(module.model, data.test)


def describe_model(module: DensityModule, *, failed: bool) -> dict[str, object]:
    """The section of a record on the model and its training."""
    reason = "max_steps" if module.step else "no training steps"
    if module.selection.exhausted:
        reason = "patience"
    return {
        "n_parameters": sum(parameter.numel() for parameter in module.model.parameters()),
        "best_step": module.selection.best_step,
        "steps": module.step,
        "stop_reason": "failed" if failed else reason,
    }


def shown_in(data: DataModule) -> tuple[str, Callable[[float], float]]:
    """The unit of the progress bar and the way to it from nats: bits/dim, of grey levels."""
    if data.dataset.levels is None or data.dataset.levels == 2:
        return "nats", float
    n_dims = data.dataset.n_dims
    return "bits/dim", lambda nats: bits_per_dim(nats, n_dims)
