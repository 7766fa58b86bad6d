"""What a cell will cost, from timing a few of its steps."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from nfbench.build import build_model, count_classes
from nfbench.config import Experiment
from nfbench.data import DATA
from nfbench.data.dataset import Dataset
from nfbench.flat import tie_gradients
from nfbench.training import build_module, build_schedule

WARM_UP, TIMED = 3, 10
LONG = 5.0  # seconds of a call that is timed once
EVALUATION_ROWS = 2048


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


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def estimate(experiment: Experiment, *, device: str = "auto", threads: int = 1) -> Estimate:
    """Time a few training steps and a batch of evaluation on random data, and extrapolate.

    The data have the shape and the kind of the real ones.

    Raises:
        UsageError: if the experiment cannot be built.
    """
    torch.set_num_threads(threads)
    place = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    dataset = DATA[experiment.data.name]
    n_train, n_val, n_test = dataset.sizes
    steps_per_epoch = max(1, n_train // experiment.data.batch_size)
    schedule = build_schedule(experiment, steps_per_epoch)
    module = build_module(experiment, build_model(experiment, dataset), schedule).to(place)
    rows = random_rows(
        dataset.event_shape, dataset.levels, max(EVALUATION_ROWS, experiment.data.batch_size)
    ).to(place)
    batch = rows[: experiment.data.batch_size]
    labels = random_labels(experiment, dataset, len(batch))
    labels = labels if labels is None else labels.to(place)
    per_step = 0.0
    steps = steps_per_epoch if schedule.max_steps is None else schedule.max_steps
    if steps:
        optimizer = module.configure_optimizers()
        tie_gradients(module.weights, module.trained)
        per_step = seconds(lambda: module.optimize(optimizer, batch, labels))
    module.model.eval()
    rows = rows[: experiment.training.eval_batch_size]
    with torch.no_grad():
        per_row = seconds(lambda: module.model.log_prob(rows)) / len(rows)
    n_validations = math.ceil(steps / schedule.validate_every) + 1
    draws = experiment.training.importance_draws
    evaluated = n_validations * (
        n_val + (n_train if module.model.needs_calibration else 0)
    ) + n_test * (1 + (draws if draws > 1 else 0))
    return Estimate(steps * per_step + evaluated * per_row, schedule.max_steps is None)


def random_rows(event_shape: tuple[int, ...], levels: int | None, n: int) -> torch.Tensor:
    """Rows that cost what real ones cost."""
    if levels is None:
        return torch.randn(n, *event_shape)
    return torch.randint(levels, (n, *event_shape), dtype=torch.uint8)


def random_labels(experiment: Experiment, dataset: Dataset, n: int) -> torch.Tensor | None:
    """Labels (n,) for a flow that is conditioned on them."""
    n_classes = count_classes(experiment, dataset)
    return torch.randint(n_classes, (n,)) if n_classes else None


def seconds(call: Callable[[], object]) -> float:
    """Median seconds of a call, after a warm-up; of the first one, if that took long."""
    times: list[float] = []
    while len(times) < WARM_UP + TIMED and (not times or times[0] < LONG):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[WARM_UP:] or times)
