"""What a run's weights cost, measured whole: densities, samples, training, at rising batches."""

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from nfbench import inspection, provenance, record
from nfbench.data.base import DataModule
from nfbench.data.batches import gather
from nfbench.flat import tie_gradients
from nfbench.flops import count_flops
from nfbench.inspection import Trained
from nfbench.machine import torch_device
from nfbench.module import DensityModule
from nfbench.record import Record
from nfbench.speed import BATCH, Speed, cycled, described, measure, tried
from nfbench.training import build_module, build_schedule

N_LARGER = 6  # sizes of batch from an ordinary one upwards, each four times the last
SIZES = (1, 16, *(BATCH * 4**power for power in range(N_LARGER)))  # to 65,536
CONDITIONS = ("device", "threads", "precision", "versions")


@dataclass(frozen=True)
class Measurement:
    """The speed of a checkpoint's weights, its parameters, and the record it was stored in."""

    speed: Speed
    n_parameters: int
    checkpoint: Path
    record: Record | None
    place: Path | None


def measure_run(
    target: str,
    *,
    seed: int | None = None,
    device: str = "auto",
    threads: int = 1,
    root: Path | None = None,
) -> Measurement:
    """Measure a run's weights in this process; store it in the record if there is one of them.

    Raises:
        UsageError: no such run or checkpoint, no such device.
    """
    root = root or record.find_root()
    torch.set_num_threads(threads)
    trained = inspection.load_trained(target, seed=seed, root=root)
    found = measure_all(trained, torch_device(device), root)
    kept = inspection.own_record(trained, root)
    place = None if kept is None else record.amend(kept, root, speed=dict(found))
    n_parameters = sum(parameter.numel() for parameter in trained.model.parameters())
    return Measurement(found, n_parameters, trained.checkpoint, kept, place)


def measure_all(trained: Trained, device: torch.device, root: Path) -> Speed:
    """Throughput at rising batches, FLOPs for each example, and under which conditions.

    ``..._flops`` are those of one example in a batch of ``BATCH``, of a training step in the
    row's own. The training is that of a copy: the weights stay. ``load`` is how many processes ran
    or waited on the mean of the minute before.
    """
    load = round(os.getloadavg()[0], 2)
    model, data = trained.model.to(device).eval(), trained.data
    data.to(device)
    found = measure(model, data.test, batches=SIZES)
    rows = cycled(data.test, BATCH)
    with torch.no_grad():
        found["log_prob_flops"] = each(count_flops("log_prob", lambda: model.log_prob(rows)))
        found["sample_flops"] = each(count_flops("sample", lambda: model.sample(BATCH)))
    return (
        found | training(trained, device, root) | conditions(device, trained.step) | {"load": load}
    )


def each(flops: int | None, batch: int = BATCH) -> float | None:
    """Operations for one row of a batch."""
    return None if flops is None else flops / batch


def training(trained: Trained, device: torch.device, root: Path) -> Speed:
    """``training_ms`` of a step on the row's batch, and on larger ones; nothing without steps.

    It is objective, gradient, clipping and optimizer, without the loop around them.
    """
    experiment, data = trained.experiment, trained.data
    schedule = build_schedule(experiment, data.order.steps_per_epoch)
    if schedule.max_steps == 0:
        return {}
    model = copy.deepcopy(trained.model).train()
    module = build_module(experiment, model, schedule, root=root).to(device)
    module.step = trained.step  # its rate of learning, at which the weights stay near these
    batch, step = experiment.data.batch_size, steps_of(module, data)
    sizes = (batch * 4**power for power in range(N_LARGER))
    curve = tried("training step", step, device, sizes)
    return {
        "training_batch": batch,
        "training_precision": provenance.precision(experiment),
        **described("training", "training_examples", curve, batch, whole=True),
        "training_flops": each(count_flops("training step", step(batch)), batch),
    }


def steps_of(module: DensityModule, data: DataModule) -> Callable[[int], Callable[[], object]]:
    """A batch size -> an optimizer step of a module on the first so many rows of training."""
    optimizer, rows = module.configure_optimizers(), data.train
    tie_gradients(module.weights, module.trained)

    def step(n: int) -> Callable[[], object]:
        index = torch.arange(n) % len(rows)
        batch = gather(rows, index).to(data.device)
        labels = None if data.labels is None else gather(data.labels, index)
        return lambda: module.optimize(optimizer, batch, labels)

    return step


def conditions(device: torch.device, step: int) -> Speed:
    """What a time depends on but for the model, and when it was taken; of weights of this step.

    The precision is that of densities and samples, which training may fall short of.
    """
    return {
        "device": provenance.device_name(device),
        "threads": torch.get_num_threads(),
        "precision": "float32",
        "versions": provenance.versions(),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "step": step,
    }


def is_measured(kept: Record, device: torch.device, threads: int) -> bool:
    """Whether a record has a whole measurement under the conditions of today, with samples."""
    today = conditions(device, 0) | {"threads": threads}
    same = all(kept.speed.get(name) == today[name] for name in CONDITIONS)
    return same and "samples_per_second" in kept.speed
