"""A run of several processes gives what one gives: the same rows, sums, counts and statistics."""

import os
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import MAF, begin, changed, comparable, exit_code, write_table

from nfbench import checkpoint, record
from nfbench.config import load
from nfbench.curve import read_curve
from nfbench.record import Record
from nfbench.run import run
from nfbench.shard import Shard
from nfbench.signals import InterruptedRunError
from nfbench.world import World, world

DIGITS: dict[str, Any] = {
    "title": "Digits",
    "flow": {"name": "gaussian"},
    "preprocess": {"dequantize": "uniform"},
    "training": {"max_steps": 0, "eval_batch_size": 64},
    "cells": {"digits": {}},
}
# Batch normalization would take its statistics from the parts of a batch.
TRAINED = changed(MAF, flow={"batch_norm": False}, training={"eval_batch_size": 3000})
FFJORD: dict[str, Any] = {
    "title": "FFJORD",
    "flow": {"name": "ffjord", "hidden": [8], "blocks": 1, "atol": 1e-3, "rtol": 1e-3},
    "data": {"batch_size": 20},
    "training": {"max_steps": 4, "validate_every": 4, "chunk": 2, "eval_batch_size": 1500},
    "cells": {"pinwheel": {}},
}
REALNVP: dict[str, Any] = {
    "title": "Real NVP",
    "flow": {"name": "realnvp_image", "features": 4, "blocks": 1, "scales": 1},
    "preprocess": {"dequantize": "uniform", "logit": 0.05},
    "data": {"batch_size": 20},
    "training": {"max_steps": 6, "validate_every": 3, "chunk": 3, "eval_batch_size": 64},
    "cells": {"digits": {}},
}


def member(root: Path, row: str, cell: str, shard: bool, rank: int, size: int, port: int) -> None:
    """One of the processes of a run, as torchrun starts them."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update({name: str(value) for name, value in (names | meeting).items()})
    experiment = load(f"tiny/{row}", cell, root=root)
    try:
        run(experiment, root=root, device="cpu", shard=shard, wandb="disabled")
    except InterruptedRunError:
        os._exit(130)
    os._exit(0)


def start(root: Path, row: str, cell: str, size: int, *, shard: bool = False) -> list[Any]:
    """Start a run of some processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [begin(member, root, row, cell, shard, rank, size, port) for rank in range(size)]


def of(size: int, root: Path, row: str, cell: str, *, shard: bool = False) -> Record:
    """The record of a run of some processes, below a root of its own."""
    if size == 1:
        return run(load(f"tiny/{row}", cell, root=root), root=root, device="cpu")
    processes = start(root, row, cell, size, shard=shard)
    assert [exit_code(process, 120) for process in processes] == [0] * size
    return record.read(record.record_path(load(f"tiny/{row}", cell, root=root), root))


@pytest.mark.parametrize("size", [2, 4])
def test_an_evaluation_does_not_depend_on_the_number_of_processes(
    tmp_path: Path, size: int
) -> None:
    """Noise is drawn for batches, which stay whole; 300 test rows are five batches of 64."""
    alone, shared = (
        of(n, write_table(tmp_path / str(n), gaussian=DIGITS), "gaussian", "digits")
        for n in (1, size)
    )
    assert shared.metrics == alone.metrics
    assert shared.metrics["test/n"] == 300
    assert shared.audit == alone.audit
    assert (alone.provenance["world_size"], shared.provenance["world_size"]) == (1, size)


def test_training_takes_the_same_steps_up_to_rounding(tmp_path: Path) -> None:
    alone, shared = (
        of(n, write_table(tmp_path / str(n), maf=TRAINED), "maf", "pinwheel") for n in (1, 2)
    )
    for key, value in alone.metrics.items():
        assert shared.metrics[key] == (None if value is None else pytest.approx(value, abs=1e-4))
    assert shared.model == alone.model
    assert shared.experiment == alone.experiment


def test_evaluations_of_a_field_are_those_of_one_process(tmp_path: Path) -> None:
    alone, shared = (
        of(n, write_table(tmp_path / str(n), ffjord=FFJORD), "ffjord", "pinwheel") for n in (1, 2)
    )
    ours, theirs = shared.likelihood["nfe"], alone.likelihood["nfe"]
    assert set(ours) == set(theirs)
    assert ours["evaluation"] == pytest.approx(theirs["evaluation"], rel=0.05)
    assert ours["forward"] == pytest.approx(theirs["forward"], rel=0.3)
    assert shared.metrics["test/log_likelihood"] == pytest.approx(
        alone.metrics["test/log_likelihood"], abs=2e-2
    )


def test_running_statistics_are_alike_in_all_processes(tmp_path: Path) -> None:
    """Else their validations would not be of the weights and statistics that are kept."""
    root = write_table(tmp_path, realnvp=REALNVP)
    found = of(2, root, "realnvp", "digits")
    curve = read_curve(root / "runs" / "tiny" / "realnvp" / "digits" / "0" / "curve.jsonl")
    validated = {line["step"]: line["val_log_likelihood"] for line in curve}
    assert found.metrics["val/log_likelihood"] == validated[found.model["best_step"]]


@pytest.mark.parametrize("row", ["maf", "ffjord"])
def test_a_run_that_was_told_to_stop_goes_on_to_the_same_record(tmp_path: Path, row: str) -> None:
    rows = {"maf": TRAINED, "ffjord": changed(FFJORD, training={"max_steps": 40})}
    cut, whole = (write_table(tmp_path / name, **rows) for name in ("cut", "whole"))
    last = cut / "runs" / "tiny" / row / "pinwheel" / "0" / "last.pt"
    processes = start(cut, row, "pinwheel", 2)
    while not last.exists():
        assert processes[0].is_alive()
        time.sleep(0.01)
    os.kill(processes[1].pid, signal.SIGUSR1)  # one alone is told
    assert [exit_code(process, 120) for process in processes] == [130, 130]
    step = checkpoint.load(last)["step"]
    assert 0 < step < (100 if row == "maf" else 40)
    records = [of(2, root, row, "pinwheel") for root in (cut, whole)]
    assert comparable(records[0]) == comparable(records[1])


def test_sharing_the_optimizer_out_changes_nothing(tmp_path: Path) -> None:
    whole, shared = (write_table(tmp_path / name, maf=TRAINED) for name in ("whole", "shared"))
    records = [of(2, root, "maf", "pinwheel", shard=root == shared) for root in (whole, shared)]
    assert comparable(records[0]) == comparable(records[1])
    states = [
        checkpoint.load(root / "runs" / "tiny" / "maf" / "pinwheel" / "0" / "last.pt")["optimizer"]
        for root in (whole, shared)
    ]
    for name, value in states[0]["state"][0].items():
        assert torch.equal(states[1]["state"][0][name], value), name


def test_a_shard_takes_its_part_of_a_saved_state_and_gives_it_back() -> None:
    weights = torch.nn.Parameter(torch.arange(32.0))
    state = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": weights.detach() / 7}}}
    parts = []
    for rank in range(3):
        shard = Shard(weights)
        shard.rank, shard.size = rank, 3
        own = shard.own(state)["state"][0]
        assert own["step"] == 3
        parts.append(own["exp_avg"])
        joined = shard.whole(shard.own(state))["state"][0]["exp_avg"]
        assert joined.count_nonzero() == own["exp_avg"].count_nonzero(), "the rest is others'"
        assert torch.equal(shard.cut(joined), own["exp_avg"])
    assert torch.equal(torch.cat(parts), state["state"][0]["exp_avg"])


def as_launched(processes: list[Any], seconds: float = 60.0) -> list[int]:
    """How processes end under srun or torchrun, which end all if one fails; [] if none ends."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and any(process.is_alive() for process in processes):
        if any(process.exitcode for process in processes):
            for process in processes:
                process.terminate()
                if exit_code(process, 5) is None:
                    process.kill()
        time.sleep(0.05)
    ended = [exit_code(process, 5) for process in processes]
    return [] if None in ended else ended


@pytest.mark.slow
def test_processes_that_are_told_to_stop_at_any_moment_end_and_go_on(tmp_path: Path) -> None:
    """30 signals to both, as SLURM sends them: in imports, steps, validation, test and audit."""
    row = changed(TRAINED, training={"max_steps": 3000, "validate_every": 100})
    cut, whole = (write_table(tmp_path / name, maf=row) for name in ("cut", "whole"))
    expected = of(2, whole, "maf", "pinwheel")
    draws, codes = np.random.default_rng(0), []
    while len(codes) < 30:
        processes = start(cut, "maf", "pinwheel", 2)
        time.sleep(draws.uniform(0.0, 8.0))
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, draws.choice([signal.SIGUSR1, signal.SIGTERM]))
        ended = as_launched(processes)
        assert ended, f"hangs after signal {len(codes)}"
        codes.append(ended)
        if ended == [0, 0]:
            found = of(2, cut, "maf", "pinwheel")
            assert comparable(found) == comparable(expected)
            for folder in ("runs", "results"):
                shutil.rmtree(cut / folder)
    assert sum(ended != [0, 0] for ended in codes) > 20
    assert comparable(of(2, cut, "maf", "pinwheel")) == comparable(expected)


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    root = write_table(tmp_path, maf=changed(TRAINED, data={"batch_size": 21}))
    processes = start(root, "maf", "pinwheel", 2)
    assert 0 not in [exit_code(process, 60) for process in processes]
    assert not (root / "results").exists()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, World()),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}, World()),  # no step
        (
            {
                "SLURM_STEP_NUM_TASKS": "4",
                "SLURM_STEP_NUM_NODES": "2",
                "SLURM_PROCID": "3",
                "SLURM_LOCALID": "1",
            },
            World(4, 3, 1, 2, "srun"),
        ),
        (
            {
                "TORCHELASTIC_RUN_ID": "x",
                "WORLD_SIZE": "8",
                "RANK": "5",
                "LOCAL_RANK": "1",
                "LOCAL_WORLD_SIZE": "4",
            },
            World(8, 5, 1, 2, "torchrun"),
        ),
        ({"WORLD_SIZE": "2", "RANK": "1"}, World()),  # left over from something else
    ],
)
def test_what_started_the_processes_says_how_many_there_are(
    environ: dict[str, str], expected: World
) -> None:
    assert world(environ) == expected
    assert world(environ).is_first == (expected.rank == 0)
