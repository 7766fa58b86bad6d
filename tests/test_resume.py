"""A run killed at any moment and resumed gives the record of one never cut, bit for bit."""

import signal
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from harness import MAF, begin, changed, comparable, exit_code, run_until_killed, write_table

from nfbench import checkpoint
from nfbench.config import load
from nfbench.run import run

STEP = "nfbench.module:DensityModule.optimize"
VALIDATION = "nfbench.module:DensityModule.validation_step"
TEST = "nfbench.module:DensityModule.test_step"
RENAME = "nfbench.atomic:os.replace"
BEST = "nfbench.callbacks:Checkpoints.on_validation_end"
LAST = "nfbench.callbacks:Checkpoints.on_train_epoch_end"
RECORD = "nfbench.record:write"
PICTURES = "nfbench.run:save_pictures"

MAF_EVERY_20 = changed(MAF, training={"max_steps": 160})
ROWS = {
    "batch_norm": MAF_EVERY_20,
    "dequantized": changed(MAF_EVERY_20, preprocess={"dequantize": "uniform", "logit": 0.05})
    | {"cells": {"digits": {}}},
    "images": {
        "title": "Images",
        "flow": {"name": "glow_image", "levels": 2, "steps": 1, "hidden": 4},
        "preprocess": {"dequantize": "variational", "dequantizer_layers": 2, "shift": 0.5},
        "data": {"batch_size": 20, "condition": "label", "augment": ["flip", "shift"]},
        "training": {"max_steps": 160, "validate_every": 20, "chunk": 3},
        "cells": {"digits": {}},
    },
    # Noise is drawn in every step, and evaluations are counted between validations.
    "ode": MAF_EVERY_20
    | {
        "flow": {
            "name": "ffjord",
            "hidden": [4],
            "T": 0.2,
            "atol": 1e-2,
            "rtol": 1e-2,
            "gradient": "replay",
        }
    },
    "averaged": changed(
        MAF_EVERY_20,
        training={
            "max_steps": None,
            "ema_decay": 0.9,
            "schedule": "plateau",
            "plateau_patience": 1,
            "learning_rate": 0.1,
            "patience": 3,
            "warmup_steps": 10,
            "clip_norm": 1.0,
            "weight_decay": 0.01,
        },
    ),
}


def kills(rng: np.random.Generator) -> Iterator[tuple[str, int]]:
    """Where to kill: known moments first, then steps and writes at random, then the evaluation."""
    yield STEP, int(rng.integers(1, 4))  # before the first chunk end
    yield STEP, int(rng.integers(22, 30))  # in the second interval
    yield VALIDATION, 1
    yield BEST, 1
    yield LAST, 1
    yield RENAME, 1
    for _ in range(2):
        yield STEP, int(rng.integers(4, 20))
    yield RENAME, int(rng.integers(2, 5))
    yield STEP, int(rng.integers(1, 20))


@pytest.mark.parametrize("row", ROWS)
def test_a_run_killed_again_and_again_gives_the_record_of_one_never_cut(
    row: str, tmp_path: Path
) -> None:
    killed, whole = (write_table(tmp_path / name, **{row: ROWS[row]}) for name in ("a", "b"))
    (cell,) = ROWS[row]["cells"]
    last = killed / "runs" / "tiny" / row / cell / "0" / "last.pt"
    reached = []
    for place, count in kills(np.random.default_rng(crc32(row.encode()))):
        process = begin(run_until_killed, killed, row, cell, place, count)
        assert exit_code(process) == -signal.SIGKILL, f"not killed at {place} {count}"
        reached.append(checkpoint.load(last)["step"] if last.exists() else None)
    assert reached[0] is None
    assert reached[1] % 20 != 0
    assert len(set(reached)) > 4
    for place in (TEST, PICTURES, RECORD):
        process = begin(run_until_killed, killed, row, cell, place, 1)
        assert exit_code(process) == -signal.SIGKILL, f"not killed at {place}"
    records = [
        run(load(f"tiny/{row}", cell, root=root), root=root, device="cpu")
        for root in (killed, whole)
    ]
    assert comparable(records[0]) == comparable(records[1])
    assert records[0].status == "done"
    folders = [root / last.relative_to(killed).parent for root in (killed, whole)]
    assert np.array_equal(*(np.load(f / "test_log_prob.npz")["log_prob"] for f in folders))
