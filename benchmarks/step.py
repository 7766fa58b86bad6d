"""A training step through the whole harness, Lightning included, against a bare PyTorch loop."""

import gc
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.timing import Comparison, Pace, command, verdict
from nfbench.callbacks import Checkpoints
from nfbench.data.base import DataModule
from nfbench.data.batches import BatchOrder
from nfbench.data.dataset import Dataset, Splits
from nfbench.flat import flatten, tie_gradients
from nfbench.flows.maf import maf
from nfbench.machine import quiet_lightning
from nfbench.module import DensityModule
from nfbench.objectives import maximum_likelihood
from nfbench.run import train
from nfbench.schedule import Schedule
from nfbench.selection import Selection
from nfbench.signals import StopRequest

POWER = (1_659_917, 6)
BATCH, RATE = 100, 1e-4
SET_UP_STEPS = 64  # a fit this short is all set-up; it is subtracted


@dataclass(frozen=True, kw_only=True)
class Noise(Dataset):
    """Standard normal rows."""

    name: str = "noise"
    title: str = "Noise"
    event_shape: tuple[int, ...] = (POWER[1],)
    sizes: tuple[int, int, int] = (POWER[0], 1000, 1000)

    def read(self, root: Path, seed: int) -> Splits:
        """Draw the rows."""
        draw = np.random.default_rng(seed)
        return Splits(
            *(draw.standard_normal((n, *self.event_shape), dtype=np.float32) for n in self.sizes)
        )


def model() -> nn.Module:
    """The MAF (5) of the comparison."""
    return maf((POWER[1],), layers=5, hidden=(100, 100), batch_norm=False)


@dataclass
class Harness:
    """Fits as a run makes them: Trainer, DataModule, checkpoints, curve and log."""

    data: DataModule
    chunk: int
    root: Path
    fits: count = field(default_factory=count)

    def __call__(self, steps: int) -> None:
        schedule = Schedule(
            self.data.order.steps_per_epoch, steps, steps, chunk=self.chunk, learning_rate=RATE
        )
        module = DensityModule(
            model(), maximum_likelihood, schedule, Selection(), weight_decay=0.0
        )
        directory = self.root / "runs" / f"chunk{self.chunk}" / str(next(self.fits))
        directory.mkdir(parents=True)
        train(
            module,
            self.data,
            Checkpoints(directory, {}, "benchmark", StopRequest(), part={}),
            self.root,
            bar=False,
        )
        if module.step != steps:
            raise ValueError(f"fit: expected {steps} steps, got {module.step}")


def bare(data: DataModule, *, flat: bool) -> Callable[[int], None]:
    """The shortest loop that takes the same steps: same batches, fused Adam, the rate set once."""
    rows = data.train
    order = BatchOrder(len(rows), BATCH, seed=0).epoch(0)

    def fit(steps: int) -> None:
        if steps > len(order):
            raise ValueError(f"fit: expected at most one epoch, {len(order)} steps; got {steps}")
        flow = model()
        parameters = list(flow.parameters())
        trained = [flatten(parameters)] if flat else parameters
        optimizer = torch.optim.Adam(trained, lr=RATE, fused=True)
        if flat:
            tie_gradients(trained[0], parameters)
        for index in order[:steps]:
            optimizer.zero_grad(set_to_none=not flat)
            loss = -flow(rows.index_select(0, index)).mean()
            loss.backward()
            optimizer.step()

    return fit


def per_step(fit: Callable[[int], None], steps: int) -> float:
    """CPU seconds of a step: a long fit less a short one, over the steps between."""
    seconds = []
    for n in (SET_UP_STEPS, SET_UP_STEPS + steps):
        gc.collect()
        start = time.process_time()
        fit(n)
        seconds.append(time.process_time() - start)
    return (seconds[1] - seconds[0]) / steps


def compare(quick: bool) -> list[Comparison]:
    """Time fits of the same steps in turn."""
    quiet_lightning()
    logging.getLogger("nfbench").setLevel(logging.ERROR)
    pace, steps = Pace.of(quick, 9), 128 if quick else 640
    data = DataModule(Noise(sizes=(20_000, 1000, 1000)) if quick else Noise(), batch_size=BATCH)
    data.setup()
    ours, one = "nfbench, chunks of 64", "nfbench, chunks of 1"
    listed, flat = "bare loop, 30 tensors", "bare loop, one vector"
    with tempfile.TemporaryDirectory() as folder:
        fits: dict[str, Callable[[int], None]] = {
            listed: bare(data, flat=False),
            flat: bare(data, flat=True),
            ours: Harness(data, 64, Path(folder)),
            one: Harness(data, 1, Path(folder)),
        }
        for fit in fits.values():
            fit(SET_UP_STEPS)
        rounds = [
            {name: per_step(fit, steps) for name, fit in fits.items()} for _ in range(pace.rounds)
        ]
    result = Comparison(
        f"MAF (5), 2x100, D = {POWER[1]}, batch {BATCH}, {len(data.train):,} rows, one step",
        listed,
        "ms",
        {name: [seconds[name] for seconds in rounds] for name in fits},
        {
            listed: "index_select, fused Adam over the parameters, the rate set once, no checks",
            flat: "the same with all parameters laid out in one vector",
            ours: "run.train: Trainer, DataModule, callbacks; sets the rate, keeps the losses",
            one: "the same, with the Trainer seeing every step",
        },
    )
    over = {name: result.ratio(ours, name) - 1 for name in (listed, flat)}
    text = f"within 10 % of the bare loops ({over[listed]:+.1%}; one vector {over[flat]:+.1%})"
    return [replace(result, target=verdict(text, max(over.values()) <= 0.10))]


if __name__ == "__main__":
    command("step", "A training step through the harness", compare)()
