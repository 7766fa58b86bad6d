"""run(experiment) -> Record: the whole path from data to record, fresh or resumed."""

import logging
import math
import os
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from nfbench import checkpoint, provenance, record
from nfbench.build import build_data, build_model, build_module, build_schedule
from nfbench.callbacks import Checkpoints, Curve, ProgressBar
from nfbench.config import Experiment
from nfbench.data.base import DataModule
from nfbench.errors import UsageError
from nfbench.launch.plan import spelled
from nfbench.metrics import bits_per_dim, summarize
from nfbench.module import DensityModule, NonFiniteLossError
from nfbench.pictures import save_pictures
from nfbench.record import Record

log = logging.getLogger("nfbench")


class FailedRunError(RuntimeError):
    """A run that has no number to give; ``failure`` is what its record says of it."""

    def __init__(self, kind: str, message: str, *, step: int, batch: Any = None, checkpoint: str | None = None) -> None:
        super().__init__(message)
        self.failure = {"kind": kind, "message": message, "step": step, "batch": batch, "checkpoint": checkpoint}


def run(
    experiment: Experiment, *, root: Path | None = None, device: str = "auto", threads: int = 1, bar: bool = False
) -> Record:
    """Train, select, test and write the record of one cell; go on from its last checkpoint if there is one.

    A finished cell is returned as it is. A run without a number (a loss that is not finite, say) leaves a record
    that says so.

    Raises:
        UsageError: if data, settings or an earlier checkpoint do not fit, or the cell is running elsewhere.
        InterruptedRunError: if a signal stopped it; the next call goes on.
    """
    root = root or record.find_root()
    path = record.record_path(experiment, root)
    directory = record.run_dir(experiment, root)
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / "run.lock", blocking=False)
    try:
        with lock:
            if path.exists() and (found := record.read(path)).status == "done":
                log.info("%s: finished already", path.relative_to(root))
                return found
            result = execute(experiment, root, torch_device(device), threads, bar)
            log.info("wrote %s", record.write(result, root).relative_to(root))
            return result
    except Timeout:
        raise UsageError(f"{directory}: another process is running this cell") from None


def execute(experiment: Experiment, root: Path, device: torch.device, threads: int, bar: bool) -> Record:
    """Build, train and evaluate; the record of it."""
    started = datetime.now(UTC)
    torch.set_num_threads(threads)
    quiet_lightning()
    directory = record.run_dir(experiment, root)
    commit = provenance.commit(root)
    data = build_data(experiment)
    data.setup()
    data.to(device)
    schedule = build_schedule(experiment, data.order.steps_per_epoch)
    module = build_module(experiment, build_model(experiment, data.dataset), schedule).to(device)
    checkpoints = Checkpoints(directory, experiment.hash)
    if checkpoints.resume(module):
        log.info("going on from step %d (%s)", module.step, checkpoints.last.relative_to(root))
    failure, metrics = None, {}
    clock = time.monotonic()
    try:
        train(module, data, checkpoints, directory, bar)
        metrics = evaluate(module, data, checkpoints, directory)
    except FailedRunError as error:
        failure = error.failure
        log.error("%s", error)
    return Record(
        status="failed" if failure else "done",
        experiment={
            "table": experiment.table,
            "row": experiment.row,
            "cell": experiment.cell,
            "seed": experiment.seed,
            "config": experiment.config(),
            "config_hash": experiment.hash,
            "overrides": list(experiment.overrides),
            "deviations": list(experiment.deviations),
            "reduced": experiment.reduced,
        },
        metrics=metrics,
        likelihood={"kind": module.model.likelihood},
        audit={},
        speed={},
        model={
            "n_parameters": sum(parameter.numel() for parameter in module.model.parameters()),
            "best_step": module.selection.best_step,
            "steps": module.step,
            "stop_reason": stop_reason(module, failure is not None),
        },
        data={
            "name": data.dataset.name,
            "source": data.splits.source,
            "n_train": len(data.train),
            "n_val": len(data.val),
            "n_test": len(data.test),
            "fingerprint": data.fingerprint,
        },
        provenance=commit
        | {
            "versions": provenance.versions(),
            "device": provenance.device_name(device),
            "precision": "float32",
            "world_size": 1,
            "threads": threads,
            "seconds": round(checkpoints.seconds + time.monotonic() - clock, 1),
            "peak_memory_bytes": provenance.peak_memory_bytes(device),
            "command": spelled(experiment),
            "started": started.isoformat(timespec="seconds"),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        },
        failure=failure,
    )


def train(module: DensityModule, data: DataModule, checkpoints: Checkpoints, directory: Path, bar: bool) -> None:
    """Fit until the schedule or patience ends it, from where the module stands.

    Raises:
        FailedRunError: if a loss is not finite; names the step, the batch and the last good checkpoint.
    """
    if module.schedule.ends_at(module.step) or module.selection.exhausted:
        return
    data.schedule, data.step = module.schedule, lambda: module.step
    label = "/".join(directory.parts[-4:])
    callbacks = [checkpoints, Curve(directory / "curve.jsonl"), ProgressBar(label, *unit(data), bar=bar)]
    try:
        trainer(module.device, callbacks).fit(module, datamodule=data)
    except NonFiniteLossError as error:
        rows = data.order.indices(error.step, error.step + 1)[0].tolist()
        epoch, batch = divmod(error.step, data.order.steps_per_epoch)
        good = checkpoints.last if checkpoints.last.exists() else None
        raise FailedRunError(
            "non-finite loss",
            f"{error} (epoch {epoch}, batch {batch}, training rows {rows[:3]}...); last good checkpoint: "
            f"{good or 'none'}; try a bounded scale (flow.scale=tanh), training.clip_norm or a lower learning rate",
            step=error.step,
            batch={"epoch": epoch, "batch": batch, "first_rows": rows[:3]},
            checkpoint=good and f"{label}/{good.name}",
        ) from error


def evaluate(
    module: DensityModule, data: DataModule, checkpoints: Checkpoints, directory: Path
) -> dict[str, float | int | None]:
    """Validate and test the best weights; the metrics of a record.

    Raises:
        FailedRunError: if no validation was finite, or a test log-likelihood is not.
    """
    if checkpoints.best.exists():
        module.model.load_state_dict(checkpoint.load(checkpoints.best, module.device)["model"])
    elif module.step:
        raise FailedRunError("no finite validation", "no validation log-likelihood was finite", step=module.step)
    module.average = None  # the best weights are the averaged ones already
    evaluator = trainer(module.device, [])
    metrics: dict[str, float | int | None] = {}
    truth = None
    for split, loop, rows in (("val", evaluator.validate, data.val), ("test", evaluator.test, data.test)):
        loop(module, datamodule=data, verbose=False)
        values = torch.cat(module.log_probs).cpu()
        metrics |= split_metrics(split, values, len(rows), data)
        if data.dataset.density_known:
            truth = torch.from_numpy(data.dataset.log_density(rows.cpu().numpy()))
            gap = summarize(truth - values)
            metrics |= {f"{split}/kl": gap.mean, f"{split}/kl_se": gap.se}
    np.save(directory / "test_log_prob.npy", values.numpy().astype(np.float32))
    save_pictures(module.model, data, directory / "pictures.npz")
    return metrics


def split_metrics(split: str, values: Tensor, n: int, data: DataModule) -> dict[str, float | int | None]:
    """The metrics of one split from its log-likelihoods, of which there must be as many as rows.

    Raises:
        FailedRunError: if one is not finite; names its row.
    """
    if len(values) != n:
        raise RuntimeError(f"{split}: expected {n} log-likelihoods, one for each row; got {len(values)}")
    bad = torch.nonzero(~torch.isfinite(values)).flatten()
    if len(bad):
        message = f"{split}: log-likelihood is {values[bad[0]].item()} at row {int(bad[0])} ({len(bad)} such rows)"
        raise FailedRunError("non-finite log-likelihood", message, step=0)
    summary = summarize(values)
    n_dims = math.prod(data.dataset.event_shape)
    return {
        f"{split}/log_likelihood": summary.mean,
        f"{split}/log_likelihood_se": summary.se,
        f"{split}/bits_per_dim": bits_per_dim(summary.mean, n_dims) if data.dataset.levels else None,
        f"{split}/bits_per_dim_se": -bits_per_dim(summary.se, n_dims) if data.dataset.levels else None,
        f"{split}/n": summary.n,
    }


def trainer(device: torch.device, callbacks: list[pl.Callback]) -> pl.Trainer:
    """Lightning as we use it: it drives chunks and validations; checkpoints, logs and bars are ours."""
    return pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=1,
        max_epochs=-1,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def unit(data: DataModule) -> tuple[str, Any]:
    """What the progress bar shows: bits/dim for discrete data, otherwise nats."""
    if data.dataset.levels is None:
        return "nats", float
    return "bits/dim", lambda nats: bits_per_dim(nats, math.prod(data.dataset.event_shape))


def stop_reason(module: DensityModule, failed: bool) -> str:
    """Why training ended."""
    if failed:
        return "failed"
    if module.selection.exhausted:
        return "patience"
    return "max_steps" if module.step else "no training steps"


def torch_device(name: str) -> torch.device:
    """The device called ``name``; ``auto`` is the GPU if there is one.

    Raises:
        UsageError: if there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda") or (name == "cuda" and not torch.cuda.is_available()):
        raise UsageError(f"device: expected auto, cpu, or cuda where there is a GPU; got {name!r}")
    return torch.device(name)


def quiet_lightning() -> None:
    """Keep Lightning's advice, meant for loaders with workers, out of the log."""
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    os.environ.setdefault("POSSIBLE_USER_WARNINGS", "off")
