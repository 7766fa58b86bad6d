"""What a cell will cost, from timing a few of its steps."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Literal

import torch
from torch import Tensor

from nfbench.build import build_model, count_classes
from nfbench.config import Experiment
from nfbench.costs import TIMED, WARM_UP, Timing, rounded
from nfbench.data import DATA
from nfbench.data.dataset import Dataset
from nfbench.flat import tie_gradients
from nfbench.machine import torch_device
from nfbench.module import DensityModule
from nfbench.provenance import peak_memory_bytes, reset_peak_memory
from nfbench.schedule import Schedule
from nfbench.speed import clock
from nfbench.training import build_module, build_schedule
from nfbench.units import duration

LONG = 2.0  # seconds after which no further call is timed
GROWTH = 4  # of the batch in evaluation, until all rows are in it or a call is long


@dataclass(frozen=True)
class Estimate:
    """Seconds of one process on this machine.

    ``open_ended`` if early stopping alone ends the run: the seconds are then those of an epoch.
    """

    seconds: float
    open_ended: bool

    def __str__(self) -> str:
        """In words."""
        text = duration(self.seconds)
        return f"{text} an epoch, until early stopping" if self.open_ended else text


def estimate(experiment: Experiment, *, device: str = "auto", threads: int = 1) -> Estimate:
    """Time a few training steps and a batch of evaluation on random data, and extrapolate.

    Raises:
        UsageError: if the experiment cannot be built, or there is no such device.
    """
    timing = time_cell(experiment, device=device, threads=threads)
    open_ended = timing.ends == "patience"
    steps = timing.steps_per_epoch if open_ended else timing.steps
    return Estimate(timing.seconds(steps), open_ended)


def time_cell(experiment: Experiment, *, device: str, threads: int) -> Timing:
    """Time a few training steps and a batch of evaluation on random data.

    The data have the shape and the kind of the real ones. The memory is the most that was held
    until the steps were done: on a GPU from here on, on a CPU by this process at any time.

    Raises:
        UsageError: if the experiment cannot be built, or there is no such device.
    """
    torch.set_num_threads(threads)
    place = torch_device(device)
    reset_peak_memory(place)
    dataset, size = DATA[experiment.data.name], experiment.data.batch_size
    n_train, n_val, n_test = dataset.sizes
    schedule = build_schedule(experiment, max(1, n_train // size))
    module = build_module(experiment, build_model(experiment, dataset), schedule).to(place)
    largest = min(experiment.training.eval_batch_size, max(n_val, n_test))
    rows = random_rows(dataset.event_shape, dataset.levels, max(largest, size)).to(place)
    steps, ends = fewest_steps(experiment, schedule)
    times: list[float] = []
    if steps:
        labels = random_labels(experiment, dataset, size)
        labels = labels if labels is None else labels.to(place)
        times = time_steps(module, rows[:size], labels)
    peak = peak_memory_bytes(place)
    per_row = seconds_per_row(module, rows[:largest], size)
    draws = experiment.training.importance_draws
    validated = n_val + (n_train if module.model.needs_calibration else 0)
    return Timing(
        seconds_per_step=rounded(median(times)) if times else 0.0,
        timed_steps=len(times),
        steps=steps,
        steps_per_epoch=schedule.steps_per_epoch,
        ends=ends,
        validate_every=schedule.validate_every,
        seconds_per_validation=rounded(per_row * validated),
        seconds_of_test=rounded(per_row * n_test * (1 + (draws if draws > 1 else 0))),
        peak_memory_bytes=peak,
    )


def fewest_steps(
    experiment: Experiment, schedule: Schedule
) -> tuple[int, Literal["steps", "patience", "either"]]:
    """The steps until the end, or if patience alone decides the fewest; and what decides.

    The first validation is always the best yet; the soonest end follows with none that is better.
    """
    patience = experiment.training.patience
    if schedule.max_steps is not None:
        return schedule.max_steps, "steps" if patience is None else "either"
    assert patience is not None  # or build_schedule would have refused
    return (patience + 1) * schedule.validate_every, "patience"


def time_steps(module: DensityModule, batch: Tensor, labels: Tensor | None) -> list[float]:
    """Seconds of optimizer steps on a batch."""
    optimizer = module.configure_optimizers()
    tie_gradients(module.weights, module.trained)
    return time_calls(lambda: module.optimize(optimizer, batch, labels), batch.device)


@torch.no_grad()
def seconds_per_row(module: DensityModule, rows: Tensor, size: int) -> float:
    """Seconds of a density in evaluation: by a batch of all rows, or of as many as are not long.

    The batch grows from ``size``, which has been seen in training and takes least time to try: on
    a GPU a small one takes as long as a large one, so a small one tells little.
    """
    model, place = module.model.eval(), rows.device
    while size < len(rows):
        seconds = second(partial(model.log_prob, rows[:size]), place)
        if seconds * min(GROWTH, len(rows) / size) > LONG:
            return seconds / size
        size *= GROWTH
    return median(time_calls(partial(model.log_prob, rows), place)) / len(rows)


def second(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of a second call, or of the first if that is long enough to tell, warm or not."""
    seconds = clock(call, device)
    return seconds if seconds > LONG else clock(call, device)


def random_rows(event_shape: tuple[int, ...], levels: int | None, n: int) -> Tensor:
    """Rows that cost what real ones cost."""
    if levels is None:
        return torch.randn(n, *event_shape)
    return torch.randint(levels, (n, *event_shape), dtype=torch.uint8)


def random_labels(experiment: Experiment, dataset: Dataset, n: int) -> Tensor | None:
    """Labels (n,) for a flow that is conditioned on them."""
    n_classes = count_classes(experiment, dataset)
    return torch.randint(n_classes, (n,)) if n_classes else None


def time_calls(call: Callable[[], object], device: torch.device) -> list[float]:
    """Seconds of calls after a warm-up; of the last alone, but never the first, if time is up."""
    times: list[float] = []
    while len(times) < WARM_UP + TIMED and sum(times[1:]) < LONG:
        times.append(clock(call, device))
    return times[WARM_UP:] or times[-1:]
