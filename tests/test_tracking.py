"""A run tracked offline: what its own file in wandb/ says, and that the record does not care."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
from harness import GAUSSIAN, MAF, changed, comparable, write_table
from wandb_stub import KEY

from nfbench import record
from nfbench.config import load
from nfbench.record import read_curve
from nfbench.run import run
from nfbench.tracking.log_file import Logged, read_log
from nfbench.tracking.logger import STEP

NOWHERE = "http://127.0.0.1:9"  # the port where all is discarded, and nobody listens
NFE = {"name": "ffjord", "hidden": [4], "T": 0.2, "atol": 1e-2, "rtol": 1e-2}


@pytest.fixture(autouse=True)
def fresh_wandb() -> Iterator[None]:
    """wandb reads the environment anew in each test."""
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs in one process, one after the other."""
    ode = changed(MAF, training={"max_steps": 40}) | {"flow": NFE}
    ode |= {"title": "ODE", "cells": {"pinwheel": {}}}
    root = write_table(tmp_path_factory.mktemp("root"), maf=MAF, ode=ode)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_API_KEY", KEY)
        for row in ("maf", "ode"):
            run(load(f"tiny/{row}", "pinwheel", 3, root=root), root=root, device="cpu")
        assert os.environ["WANDB_MODE"] == "offline"
    return root


def folder(root: Path, row: str = "maf", seed: int = 3) -> Path:
    return root / "runs" / "tiny" / row / "pinwheel" / str(seed)


def logs(directory: Path) -> list[Logged]:
    """What the logs of a run's folder say, by start, once W&B's own process has written them."""
    for _ in range(100):
        found = [read_log(path) for path in sorted(directory.glob("wandb/*run-*/*.wandb"))]
        if all(each.exit_code is not None for each in found):
            break
        time.sleep(0.1)
    return found


def test_an_offline_run_is_named_by_its_path(root: Path) -> None:
    (found,) = logs(folder(root))
    assert found.path.parent.name.startswith("offline-run-")
    assert (found.project, found.id) == ("nfbench", "tiny-maf-pinwheel-3")
    assert (found.name, found.group) == ("tiny/maf/pinwheel/3", "tiny/maf/pinwheel")
    assert found.job_type == "train"
    assert found.tags == ("tiny", "maf", "pinwheel", "seed-3")
    assert found.exit_code == 0


def test_its_configuration_is_nested_and_of_plain_values(root: Path) -> None:
    (found,) = logs(folder(root))
    experiment = load("tiny/maf", "pinwheel", 3, root=root)
    expected = json.loads(json.dumps(experiment.config()))
    assert {key: found.config[key] for key in expected} == expected
    assert found.config["flow"]["hidden"] == [8]
    assert found.config["training"]["learning_rate"] == 1e-3
    assert found.config["config_hash"] == experiment.hash


def test_its_history_is_the_curve_of_the_run(root: Path) -> None:
    (found,) = logs(folder(root, "ode"))
    curve = read_curve(folder(root, "ode") / "curve.jsonl")
    rows = [row for row in found.history if "train/loss" in row]
    assert [row[STEP] for row in rows] == [20, 40]
    names = {
        "train/loss": "train_loss",
        "val/log_likelihood": "val_log_likelihood",
        "train/learning_rate": "learning_rate",
        "nfe/forward": "nfe_forward",
        "nfe/backward": "nfe_backward",
    }
    for key, name in names.items():
        assert [row[key] for row in rows] == [line[name] for line in curve]


def test_its_summary_has_the_numbers_of_the_record(root: Path) -> None:
    (found,) = logs(folder(root))
    result = record.read(root / "results/tiny/maf/pinwheel/3.json")
    for key in ("test/log_likelihood", "test/log_likelihood_se", "val/log_likelihood"):
        assert found.summary[key] == result.metrics[key]
    assert found.summary["best/step"] == result.model["best_step"]
    assert found.summary["best/val_log_likelihood"] == result.metrics["val/log_likelihood"]


def test_its_figure_is_among_its_files(root: Path) -> None:
    (found,) = logs(folder(root))
    (row,) = [row for row in found.history if row.get("plot._type") == "image-file"]
    content = (found.path.parent / "files" / row["plot.path"]).read_bytes()
    assert content == (folder(root) / "plot.png").read_bytes()


def test_images_that_a_flow_draws_are_logged_as_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    row = changed(GAUSSIAN, preprocess={"dequantize": "uniform"}) | {"cells": {"digits": {}}}
    root = write_table(tmp_path, gaussian=row)
    run(load("tiny/gaussian", "digits", root=root), root=root, device="cpu")
    (found,) = logs(root / "runs/tiny/gaussian/digits/0")
    (line,) = [row for row in found.history if "samples.path" in row]
    assert (found.path.parent / "files" / line["samples.path"]).stat().st_size > 1000


def test_two_runs_of_one_process_are_two_runs(root: Path) -> None:
    assert [log.id for log in logs(folder(root))] == ["tiny-maf-pinwheel-3"]
    assert [log.id for log in logs(folder(root, "ode"))] == ["tiny-ode-pinwheel-3"]


def test_what_w_and_b_reads_of_the_file_is_what_is_read_here(root: Path) -> None:
    (found,) = logs(folder(root))
    words = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json"]
    done = subprocess.run(
        [*words, str(found.path.parent)], capture_output=True, text=True, check=True, cwd=root
    )
    theirs = json.loads(done.stdout)
    text = json.dumps(theirs)
    assert found.id in text
    assert theirs["summary"]["test/log_likelihood"] == found.summary["test/log_likelihood"]
    assert theirs["config"]["flow"] == found.config["flow"]


def test_no_key_is_in_any_file_of_a_run(root: Path) -> None:
    files = [path for path in root.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_the_record_is_the_one_of_a_run_that_is_not_tracked(root: Path, tmp_path: Path) -> None:
    other = write_table(tmp_path, maf=MAF)
    result = run(load("tiny/maf", "pinwheel", 3, root=other), root=other, device="cpu")
    assert not (folder(other) / "wandb").exists()
    tracked = record.read(root / "results/tiny/maf/pinwheel/3.json")
    assert comparable(tracked) == comparable(result)
