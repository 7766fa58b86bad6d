"""A run tracked offline: what its own file in wandb/ says, and that the record does not care."""

import contextlib
import json
import logging
import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import wandb
from click.testing import CliRunner
from harness import (
    DIVERGING,
    GAUSSIAN,
    MAF,
    begin,
    changed,
    comparable,
    exit_code,
    write_table,
)
from pytorch_lightning.demos.boring_classes import BoringModel
from wandb_stub import KEY

from nfbench import record
from nfbench.cli import main
from nfbench.config import load
from nfbench.curve import read_curve
from nfbench.errors import UsageError
from nfbench.launch import local
from nfbench.run import run
from nfbench.signals import InterruptedRunError
from nfbench.tracking import mode
from nfbench.tracking.identity import Identity, identify, run_id
from nfbench.tracking.log_file import BLOCK, STEP, Logged, framed, raw_records, read_log
from nfbench.tracking.logger import RunLogger

NAMED = Identity("some-run", "some run", "group", ("tag",), {"a": {"b": 1}})
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
    for words in ("init -q", "add experiments", "commit -q -m start", "tag v1.0"):
        git(root, *words.split())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_API_KEY", KEY)
        for row in ("maf", "ode"):
            run(load(f"tiny/{row}", "pinwheel", 3, root=root), root=root, device="cpu")
        assert os.environ["WANDB_MODE"] == "offline"
    return root


def git(root: Path, *words: str) -> None:
    name = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    subprocess.run(["git", *name, *words], cwd=root, check=True)


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
    settings = load("tiny/maf", "pinwheel", 3, root=root).hash
    assert (found.project, found.id) == ("nfbench", f"tiny-maf-pinwheel-3-{settings[:6]}")
    assert (found.name, found.group) == ("tiny/maf/pinwheel/3", "tiny/maf/pinwheel")
    assert found.job_type == "train"
    assert found.tags == ("tiny", "maf", "pinwheel", "seed-3", "v1.0")
    assert found.exit_code == 0
    assert found.staged == []  # W&B has no bytes of it anywhere else


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
    assert [log.name for log in logs(folder(root))] == ["tiny/maf/pinwheel/3"]
    assert [log.name for log in logs(folder(root, "ode"))] == ["tiny/ode/pinwheel/3"]


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


@pytest.mark.parametrize(
    ("variables", "asked", "expected"),
    [
        ({}, "auto", "offline"),  # no key
        ({"WANDB_MODE": "disabled"}, "auto", "disabled"),
        ({"WANDB_MODE": "dryrun"}, "auto", "offline"),
        ({"WANDB_MODE": "offline"}, "disabled", "disabled"),
        ({"WANDB_MODE": "disabled"}, "offline", "offline"),
        ({"WANDB_API_KEY": KEY, "WANDB_BASE_URL": NOWHERE}, "auto", "offline"),
        ({"WANDB_API_KEY": KEY, "WANDB_BASE_URL": NOWHERE}, "online", "offline"),
    ],
)
def test_the_mode_is_what_is_asked_for_or_possible(
    variables: dict[str, str], asked: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    begun = time.monotonic()
    assert mode.choose(asked) == expected
    assert time.monotonic() - begun < 10


def test_a_host_that_swallows_what_it_is_sent_is_soon_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    with socket.socket() as host, contextlib.ExitStack() as waiting:
        host.bind(("127.0.0.1", 0))
        host.listen(0)
        for _ in range(4):  # more than it lets wait: of the next it drops every packet
            other = waiting.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(host.getsockname())
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{host.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        begun = time.monotonic()
        assert mode.choose() == "offline"
        assert 1 < time.monotonic() - begun < 15


def test_a_key_in_the_netrc_file_is_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_BASE_URL", NOWHERE)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    caplog.set_level(logging.INFO, "nfbench")
    mode.choose()
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1:9 login user password {KEY}\n")
    mode.choose()
    first, second = (line for line in caplog.messages if line.startswith("W&B: offline"))
    assert "as no key for" in first
    assert "does not answer" in second
    assert KEY not in caplog.text


def test_another_mode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(UsageError, match=r"expected one of auto, online, .*; got 'onlin'"):
        mode.choose()


def test_a_run_without_tracking_does_not_import_wandb(tmp_path: Path) -> None:
    root = write_table(tmp_path, gaussian=GAUSSIAN)
    program = (
        "import sys; from pathlib import Path\n"
        "from nfbench.config import load; from nfbench.run import run\n"
        "root = Path(sys.argv[1])\n"
        "run(load('tiny/gaussian', 'pinwheel', root=root), root=root, device='cpu')\n"
        "print('wandb' in sys.modules)"
    )
    words = [sys.executable, "-c", program, str(root)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_command_line_chooses_the_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_table(tmp_path, gaussian=GAUSSIAN)
    monkeypatch.setenv("NFBENCH_ROOT", str(root))
    words = ["run", "tiny/gaussian", "pinwheel", "--device", "cpu", "--wandb", "offline"]
    assert CliRunner().invoke(main, words).exit_code == 0
    assert os.environ["WANDB_MODE"] == "disabled"
    (found,) = logs(folder(root, "gaussian", 0))
    assert found.exit_code == 0


def test_a_reproduction_tells_its_runs_the_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(command: Sequence[str], log: Path, root: Path) -> subprocess.Popen[bytes]:
        assert list(command)[-2:] == ["--wandb", "offline"]
        return subprocess.Popen(["true"])

    root = write_table(tmp_path, gaussian=GAUSSIAN)
    monkeypatch.setenv("NFBENCH_ROOT", str(root))
    monkeypatch.setattr(local, "start", start)
    words = ["reproduce", "tiny", "--device", "cpu", "--wandb", "offline"]
    assert CliRunner().invoke(main, words).exit_code == 0


@pytest.mark.parametrize("broken", ["init", "Image"])
def test_what_fails_in_w_and_b_costs_no_record(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("out of order")

    root = write_table(tmp_path, maf=changed(MAF, training={"max_steps": 20}))
    monkeypatch.setattr(wandb, broken, fail)
    result = run(load("tiny/maf", "pinwheel", root=root), root=root, device="cpu", wandb="offline")
    assert result.status == "done"
    assert record.read(root / "results/tiny/maf/pinwheel/0.json") == result
    assert caplog.text.count("W&B: nothing more is logged: out of order") == 1


def test_settings_that_w_and_b_refuses_cost_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_BASE_URL", "nowhere")
    root = write_table(tmp_path, gaussian=GAUSSIAN)
    result = run(load("tiny/gaussian", "pinwheel", root=root), root=root, device="cpu")
    assert result.status == "done"
    assert "W&B: not tracked" in caplog.text


def test_a_signal_at_the_start_of_tracking_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(asked: str) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return "disabled"

    monkeypatch.setattr("nfbench.tracking.session.choose", interrupted)
    root = write_table(tmp_path, gaussian=GAUSSIAN)
    with pytest.raises(InterruptedRunError):
        run(load("tiny/gaussian", "pinwheel", root=root), root=root, device="cpu")
    assert not list(root.rglob("0.json"))


def test_a_failed_run_is_recorded_as_failed(tmp_path: Path) -> None:
    root = write_table(tmp_path, diverging=DIVERGING)
    run(load("tiny/diverging", "pinwheel", root=root), root=root, device="cpu", wandb="offline")
    (found,) = logs(folder(root, "diverging", 0))
    assert found.exit_code == 1
    assert found.summary["failure"] == "non-finite loss"
    assert not any(key.startswith("test/") for key in found.summary)


def test_a_run_that_crashes_is_recorded_as_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("crashed")

    monkeypatch.setattr("nfbench.run.evaluate", fail)
    root = write_table(tmp_path, maf=changed(MAF, training={"max_steps": 20}))
    with pytest.raises(RuntimeError, match="crashed"):
        run(load("tiny/maf", "pinwheel", root=root), root=root, device="cpu", wandb="offline")
    (found,) = logs(folder(root, "maf", 0))
    assert (found.exit_code, found.preempted) == (1, False)


def test_a_run_that_was_killed_before_it_told_of_its_record_tells_it_when_called_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("killed")

    monkeypatch.setenv("WANDB_MODE", "offline")
    root = write_table(tmp_path, maf=changed(MAF, training={"max_steps": 20}))
    experiment = load("tiny/maf", "pinwheel", root=root)
    with monkeypatch.context() as patch:
        patch.setattr("nfbench.tracking.session.Session.report", fail)
        with pytest.raises(RuntimeError, match="killed"):
            run(experiment, root=root, device="cpu")
    (first,) = logs(folder(root, "maf", 0))
    assert "test/log_likelihood" not in first.summary
    time.sleep(1)  # W&B names the folders of logs by the second
    for _ in range(2):
        result = run(experiment, root=root, device="cpu")
        (_, last) = logs(folder(root, "maf", 0))
        assert last.summary["test/log_likelihood"] == result.metrics["test/log_likelihood"]
        assert last.exit_code == 0


def test_an_identity_is_short_enough_and_apart_from_others(root: Path) -> None:
    experiment = load("tiny/maf", "pinwheel", 3, root=root)
    long = replace(experiment, row="r" * 90)
    names = [run_id(each, "abcdef123456") for each in (experiment, long, replace(long, seed=4))]
    names.append(run_id(long, "abcdee123456"))
    assert names[0] == "tiny-maf-pinwheel-3-abcdef"
    assert len(set(names)) == 4
    assert all(len(name) <= 64 and set(name) <= set(ALLOWED) for name in names)
    assert all(len(tag) <= 64 for tag in identify(long, "v" * 90).tags)


ALLOWED = "abcdefghijklmnopqrstuvwxyz0123456789_-"


def test_overrides_are_a_run_and_a_group_of_their_own(root: Path) -> None:
    plain = load("tiny/maf", "pinwheel", 3, root=root)
    other = load("tiny/maf", "pinwheel", 3, ["training.max_steps=7"], root=root)
    assert identify(other, None).id != identify(plain, None).id
    assert identify(other, None).group == "tiny/maf/pinwheel training.max_steps=7"
    assert identify(plain, "v1").tags == ("tiny", "maf", "pinwheel", "seed-3", "v1")


def test_of_a_log_that_is_cut_every_whole_record_is_read_wherever_it_ends(
    root: Path, tmp_path: Path
) -> None:
    (found,) = logs(folder(root))
    content = found.path.read_bytes()
    records = list(raw_records(found.path))
    path = tmp_path / "run.wandb"
    for size in (0, 3, 7, 8, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        n = len(list(raw_records(path)))
        assert list(raw_records(path)) == records[:n]
        assert len(framed(records[: n + 1])) > size >= len(framed(records[:n])) or size < 7
    assert framed(records) == content


@pytest.mark.parametrize("size", [BLOCK - 20 + i for i in range(20)] + [3 * BLOCK])
def test_a_record_at_the_edge_of_a_block_is_read_as_it_was_written(
    size: int, tmp_path: Path
) -> None:
    records = [bytes(range(1, 200)), b"x" * size, b"y" * 10, b"z" * BLOCK]
    path = tmp_path / "run.wandb"
    path.write_bytes(framed(records))
    assert list(raw_records(path)) == records


def test_a_row_that_has_changed_is_another_run_of_the_same_group(
    root: Path, tmp_path: Path
) -> None:
    other = write_table(tmp_path, maf=changed(MAF, training={"max_steps": 20}))
    experiments = [load("tiny/maf", "pinwheel", 3, root=each) for each in (root, other)]
    before, after = (identify(each, None) for each in experiments)
    assert before.id != after.id
    assert (before.name, before.group) == (after.name, after.group)


def test_a_log_of_many_blocks_is_read_whole_and_one_that_is_spoilt_but_for_a_block(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    logger = RunLogger(NAMED, directory, "offline")
    texts = [f"{i:05d}" * 400 for i in range(60)]
    for text in texts:
        logger.experiment.log({"text": text})
    logger.experiment.finish()
    (found,) = logs(directory)
    content = bytearray(found.path.read_bytes())
    assert len(content) > 3 * BLOCK
    assert [row["text"] for row in found.history] == texts
    assert not found.spoilt
    content[2 * BLOCK + 100] ^= 1
    found.path.write_bytes(content)
    part = read_log(found.path)
    read = [row["text"] for row in part.history]
    assert (read[0], read[-1]) == (texts[0], texts[-1])
    assert 60 - BLOCK / 2000 - 2 < len(read) < 60
    assert set(read) < set(texts)
    assert (part.spoilt, part.exit_code) == (True, 0)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.wandb").write_bytes(b"something else")
    with pytest.raises(UsageError, match="expected a log of W&B"):
        read_log(tmp_path / "run.wandb")


class Logging(pl.Callback):
    """Logs a number at every step, as the curve does at validations."""

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any, **options: Any) -> None:
        for logger in trainer.loggers:
            logger.log_metrics({"train_loss": 1.0}, step=trainer.global_step)

    def on_fit_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        for logger in trainer.loggers:
            logger.experiment.finish()


def on_two_processes(folder: Path) -> None:
    """Train a model of Lightning's own by two processes, with our logger."""
    os.environ["WANDB_MODE"] = "disabled"
    torch.set_num_threads(1)
    logger = RunLogger(NAMED, folder, "offline")
    pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",
        max_steps=3,
        limit_val_batches=0,
        logger=logger,
        callbacks=[Logging()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(BoringModel())


def test_a_run_of_two_processes_is_one_run(tmp_path: Path) -> None:
    assert exit_code(begin(on_two_processes, tmp_path), 100) == 0
    (found,) = logs(tmp_path)
    assert [row["train/loss"] for row in found.history] == [1.0] * 3
    assert found.id == NAMED.id


def test_a_logger_that_lightning_hands_to_another_process_is_the_same_run(tmp_path: Path) -> None:
    logger = RunLogger(NAMED, tmp_path, "offline")
    logger.log_metrics({"train_loss": 1.0}, step=1)
    other = pickle.loads(pickle.dumps(logger))
    other.log_metrics({"train_loss": 2.0}, step=2)
    other.experiment.finish()
    (found,) = logs(tmp_path)
    assert [row["train/loss"] for row in found.history] == [1.0, 2.0]


def test_numbers_of_numpy_and_torch_are_numbers(tmp_path: Path) -> None:
    logger = RunLogger(NAMED, tmp_path, "offline")
    logger.log_metrics({"a": np.float64(1.5), "b": torch.tensor(2.5), "c": math.nan}, step=1)
    logger.experiment.finish()
    (found,) = logs(tmp_path)
    (row,) = found.history
    assert (row["a"], row["b"], math.isnan(row["c"])) == (1.5, 2.5, True)


def kill_itself(folder: Path) -> None:
    """Log rows, wait for longer than they may take to the disk, and die without a word."""
    logger = RunLogger(NAMED, folder, "offline")
    for step in range(50):
        logger.log_metrics({"train_loss": 1.0}, step=step)
    time.sleep(2.5)
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_was_logged_more_than_a_second_before_a_kill_is_on_disk(tmp_path: Path) -> None:
    assert exit_code(begin(kill_itself, tmp_path)) == -signal.SIGKILL
    (path,) = tmp_path.glob("wandb/offline-*/*.wandb")
    found = read_log(path)
    assert len(found.history) == 50
    assert found.exit_code != 0
