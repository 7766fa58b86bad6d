"""Tiny tables, data sets and models for the tests of the harness."""

import functools
import importlib
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from math import inf
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from nfbench import callbacks
from nfbench.callbacks import Checkpoints
from nfbench.cli import main
from nfbench.config import load
from nfbench.data.base import DataModule
from nfbench.data.dataset import Dataset, Splits
from nfbench.density import DensityModel
from nfbench.machine import trainer
from nfbench.module import DensityModule
from nfbench.objectives import Objective, maximum_likelihood
from nfbench.record import Record
from nfbench.run import run
from nfbench.schedule import Schedule
from nfbench.selection import Selection
from nfbench.signals import StopRequest

CPU = torch.device("cpu")
TABLE = {
    "title": "Tiny",
    "source": "Ours.",
    "metric": "test/log_likelihood",
    "unit": "nats",
    "direction": "higher",
    "uncertainty": {"ours": "2 standard errors"},
}
MAF = {
    "title": "MAF",
    "flow": {"name": "maf", "layers": 2, "hidden": [8]},
    "data": {"batch_size": 20},
    "training": {"max_steps": 100, "validate_every": 20, "chunk": 3},
    "cells": {"pinwheel": {}},
}
GAUSSIAN = {
    "title": "Gaussian",
    "flow": {"name": "gaussian"},
    "training": {"max_steps": 0},
    "cells": {"pinwheel": {}},
}
# Its first step leaves weights so large that the second loss overflows.
DIVERGING = {
    "title": "Diverging",
    "flow": {"name": "maf", "layers": 2, "hidden": [8], "batch_norm": False},
    "data": {"batch_size": 20},
    "training": {"max_steps": 20, "validate_every": 10, "chunk": 5, "learning_rate": 1.0e30},
    "cells": {"pinwheel": {}},
}


def changed(row: Mapping[str, Any], **sections: Mapping[str, Any]) -> dict[str, Any]:
    """A row with some keys of some sections changed."""
    return {**row, **{name: {**row.get(name, {}), **keys} for name, keys in sections.items()}}


def write_table(root: Path, **rows: Mapping[str, Any]) -> Path:
    """Write experiments/tiny with these rows below ``root``; return the root."""
    folder = root / "experiments" / "tiny"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    cells = dict.fromkeys(cell for row in rows.values() for cell in row["cells"])
    head = TABLE | {"rows": list(rows), "columns": {cell: cell.upper() for cell in cells}}
    for name, content in {"table": head, **rows}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(dict(content), sort_keys=False))
    return root


SWEEP = {
    "title": "Tiny sweep",
    "row": "tiny/maf",
    "cell": "pinwheel",
    "sampler": "grid",
    "fixed": {"training.max_steps": 40},
    "space": {"flow.layers": [1, 2], "training.learning_rate": [0.01, 0.001]},
}


def write_sweep(root: Path, **keys: Any) -> Path:
    """Write experiments/tiny and the sweep `small` of its row, with some keys changed."""
    write_table(root, maf=MAF)
    folder = root / "experiments" / "sweeps"
    folder.mkdir(exist_ok=True)
    (folder / "small.yaml").write_text(yaml.safe_dump(SWEEP | keys, sort_keys=False))
    return root


def finished_runs(root: Path, **rows: Mapping[str, Any]) -> Path:
    """A table of these rows whose pinwheels have run; its root."""
    write_table(root, **rows)
    for row in rows:
        run(load(f"tiny/{row}", "pinwheel", root=root), root=root, device="cpu")
    return root


def comparable(record: Record) -> dict[str, Any]:
    """Everything in a record but where it comes from, and how long things took there."""
    content = asdict(record)
    del content["provenance"], content["speed"]
    return content


# Processes that know torch already and start in milliseconds; a plain fork of the test's own
# process could inherit the threads of a backward pass.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["nfbench.run"])


def begin(call: Callable[..., None], *arguments: object) -> BaseProcess:
    """Start a call in a process of its own."""
    process = PROCESSES.Process(target=call, args=arguments)
    process.start()
    return process


def exit_code(process: BaseProcess, seconds: float = 60.0) -> int | None:
    """Wait for a process; None if it does not end in time."""
    process.join(seconds)
    return process.exitcode


def command(root: Path, arguments: Sequence[str], output: Path) -> None:
    """`nfbench ...` with what it prints in a file."""
    os.environ["NFBENCH_ROOT"] = str(root)
    with output.open("w", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        main(list(arguments), prog_name="nfbench")


def run_until_killed(root: Path, row: str, cell: str, place: str, count: int) -> None:
    """Run a cell until call number ``count`` of a place, with checkpoints at all chunk ends."""
    kill_at(place, count)
    run(load(f"tiny/{row}", cell, root=root), root=root, device="cpu")


def kill_at(place: str, count: int) -> None:
    """Have this process save at all chunk ends, and be killed at call ``count`` of a place.

    A place is "module:attribute"; the call itself does not happen any more.
    """
    callbacks.SECONDS_BETWEEN_CHECKPOINTS = -inf
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    original, calls = getattr(owner, name), iter(range(1, count))

    def counted(*arguments: Any, **options: Any) -> Any:
        if next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(owner, name, counted)


@dataclass(frozen=True, kw_only=True)
class Rows(Dataset):
    """The arrays that it is given."""

    splits: Splits
    name: str = "rows"
    title: str = "Rows"
    event_shape: tuple[int, ...] = (2,)
    sizes: tuple[int, int, int] = (0, 0, 0)

    @classmethod
    def of(cls, train: np.ndarray, val: np.ndarray, test: np.ndarray) -> Self:
        return cls(splits=Splits(train, val, test), event_shape=train.shape[1:])

    def read(self, root: Path, seed: int) -> Splits:
        return self.splits

    def load(self, root: Path | None = None, seed: int = 0) -> Splits:
        return self.splits


def normal_rows(n: int = 200, *, features: int = 2, seed: int = 0) -> Rows:
    """Correlated normal rows, far from the origin: n for training, n / 2 for each evaluation."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((features, features))
    draws = (rng.standard_normal((m, features)) @ mix + 3 for m in (n, n // 2, n // 2))
    return Rows.of(*(rows.astype(np.float32) for rows in draws))


class Location(DensityModel):
    """A normal density of unit scale, but for its constant, around a trained location."""

    likelihood = "exact"

    def __init__(self, features: int = 2) -> None:
        super().__init__()
        self.location = nn.Parameter(torch.zeros(features))

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return -0.5 * ((x - self.location) ** 2).sum(-1)

    def sample(self, n: int, context: Tensor | None = None) -> Tensor:
        return self.location + torch.randn(n, len(self.location))


def fit(
    model: DensityModel,
    dataset: Rows,
    schedule: Schedule,
    *,
    batch_size: int = 20,
    selection: Selection | None = None,
    objective: Objective = maximum_likelihood,
    directory: Path | None = None,
    watchers: Sequence[Any] = (),
    **options: Any,
) -> DensityModule:
    """Train a model as a run does, on the CPU; return its module."""
    data = DataModule(dataset, batch_size=batch_size)
    data.setup()
    module = DensityModule(model, objective, schedule, selection or Selection(), **options)
    data.schedule, data.step = schedule, lambda: module.step
    kept = [Checkpoints(directory, {}, "settings", StopRequest(), part={})] if directory else []
    trainer(CPU, [*kept, *watchers]).fit(module, datamodule=data)
    return module
