"""One cell from data to record: what is tested, what is written, and what a failure leaves."""

import json
import logging
import math
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from filelock import FileLock
from harness import DIVERGING, GAUSSIAN, MAF, changed, comparable, write_table
from torch import Tensor, nn

from nfbench import callbacks, checkpoint, objectives, record, tables
from nfbench.callbacks import Curve
from nfbench.cli import main
from nfbench.config import load
from nfbench.curve import read_curve
from nfbench.errors import UsageError
from nfbench.module import DensityModule
from nfbench.objectives import maximum_likelihood
from nfbench.progress import ProgressBar
from nfbench.record import Record
from nfbench.run import run
from nfbench.signals import InterruptedRunError

# Steps so large that validation soon gets worse again.
OVERSHOOTING = changed(MAF, training={"learning_rate": 0.3, "max_steps": None, "patience": 3})
DIGITS = changed(
    MAF,
    training={"max_steps": 10, "validate_every": 5},
    preprocess={"dequantize": "uniform", "logit": 0.05},
) | {"cells": {"digits": {}}}


def go(root: Path, row: str, cell: str = "pinwheel", **options: Any) -> Record:
    return run(load(f"tiny/{row}", cell, root=root), root=root, device="cpu", **options)


def directory(root: Path, row: str) -> Path:
    return root / "runs" / "tiny" / row / "pinwheel" / "0"


def plant(
    monkeypatch: pytest.MonkeyPatch, at: int, spoil: Any = lambda loss, model: loss * math.nan
) -> None:
    """Spoil the loss of one step of the next trainings."""

    def planted(model: nn.Module, x: Tensor, context: Tensor | None = None) -> Tensor:
        loss = maximum_likelihood(model, x, context)
        planted.calls += 1
        return spoil(loss, model) if planted.calls == at + 1 else loss

    planted.calls = 0
    monkeypatch.setitem(objectives.OBJECTIVES, "maximum_likelihood", planted)


def test_a_record_tells_all_of_a_run_and_a_finished_cell_is_left_as_it_is(tmp_path: Path) -> None:
    write_table(tmp_path, maf=MAF)
    result = go(tmp_path, "maf")
    assert result == record.read(tmp_path / "results/tiny/maf/pinwheel/0.json")
    assert result.status == "done"
    assert result.likelihood == {"kind": "exact"}
    assert result.model["steps"] == 100
    assert result.model["stop_reason"] == "max_steps"
    assert result.metrics["test/n"] == result.data["n_test"] == 10_000
    assert result.provenance["command"] == "nfbench run tiny/maf pinwheel --seed 0"
    assert go(tmp_path, "maf") == result


def test_the_test_is_of_the_best_weights_and_not_of_the_last(tmp_path: Path) -> None:
    write_table(tmp_path, maf=OVERSHOOTING)
    result = go(tmp_path, "maf")
    folder = directory(tmp_path, "maf")
    lines = read_curve(folder / "curve.jsonl")
    curve = {line["step"]: line["val_log_likelihood"] for line in lines}
    assert result.model["best_step"] == max(curve, key=curve.__getitem__)
    assert result.model["steps"] == result.model["best_step"] + 3 * 20
    assert result.model["stop_reason"] == "patience"
    assert result.metrics["val/log_likelihood"] == max(curve.values())
    assert max(curve.values()) > curve[result.model["steps"]]
    values = np.load(folder / "test_log_prob.npz")["log_prob"]
    mean = values.mean(dtype=np.float64)
    assert mean == pytest.approx(result.metrics["test/log_likelihood"], abs=1e-6)
    assert values.min() == pytest.approx(result.metrics["test/log_likelihood_min"], rel=1e-6)


def test_discrete_data_give_bits_per_dim_of_a_lower_bound(tmp_path: Path) -> None:
    write_table(tmp_path, maf=DIGITS)
    result = go(tmp_path, "maf", "digits")
    assert result.likelihood == {"kind": "lower bound"}
    nats = result.metrics["test/log_likelihood"]
    assert result.metrics["test/bits_per_dim"] == pytest.approx(-nats / 64 / math.log(2))
    assert result.metrics["test/n"] == 300


def test_a_model_without_steps_is_fitted_and_tested(tmp_path: Path) -> None:
    write_table(tmp_path, gaussian=GAUSSIAN)
    result = go(tmp_path, "gaussian")
    assert result.model["stop_reason"] == "no training steps"
    assert result.metrics["test/kl"] > 0


def test_overrides_keep_out_of_the_results(tmp_path: Path) -> None:
    write_table(tmp_path, gaussian=GAUSSIAN)
    experiment = load("tiny/gaussian", "pinwheel", 0, ["data.seed=1"], tmp_path)
    run(experiment, root=tmp_path, device="cpu")
    assert record.record_path(experiment, tmp_path).name == "record.json"
    assert not (tmp_path / "results").exists()


def test_a_diverging_run_leaves_a_record_that_says_where_and_never_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(tmp_path, diverging=DIVERGING, gaussian=GAUSSIAN)
    monkeypatch.setenv("NFBENCH_ROOT", str(tmp_path))
    shown = CliRunner().invoke(main, ["run", "tiny/diverging", "pinwheel", "--device", "cpu"])
    assert shown.exit_code == 1
    assert shown.output.splitlines()[-1].startswith("failed: loss is ")
    failed = record.read(tmp_path / "results/tiny/diverging/pinwheel/0.json")
    assert (failed.status, failed.metrics) == ("failed", {})
    assert failed.model["stop_reason"] == "failed"
    step = failed.failure["step"]
    assert failed.failure["batch"]["batch"] == step
    assert len(failed.failure["batch"]["first_rows"]) == 3
    assert failed.failure["checkpoint"] is None
    for word in (f"at step {step}", "last good checkpoint: none", "training.clip_norm"):
        assert word in failed.failure["message"]
    page = tables.markdown(tables.build("tiny", tmp_path))
    line = next(line for line in page.splitlines() if line.startswith("| diverging"))
    assert f"failed: non-finite loss at step {step}" in line
    assert "nan" not in page.lower().replace("determinant", "")
    assert [text.strip() for text in line.split("|")][3:5] == ["", ""]


def test_a_failed_run_may_be_tried_again_and_goes_on_from_its_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(tmp_path / "planted", maf=MAF)
    write_table(tmp_path / "whole", maf=MAF)
    with monkeypatch.context() as patch:
        plant(patch, 47)
        failed = go(tmp_path / "planted", "maf")
    assert failed.failure["step"] == 47
    assert failed.failure["checkpoint"] == "runs/tiny/maf/pinwheel/0/last.pt"
    assert checkpoint.load(directory(tmp_path / "planted", "maf") / "last.pt")["step"] == 40
    again = go(tmp_path / "planted", "maf")
    assert comparable(again) == comparable(go(tmp_path / "whole", "maf"))


def test_weights_that_are_not_finite_are_never_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finite loss can have a gradient that is not: the next loss is the first to tell."""

    def steep(loss: Tensor, model: nn.Module) -> Tensor:
        return loss + sum((0 * parameter).sum() for parameter in model.parameters()).sqrt()

    write_table(tmp_path, maf=MAF)
    monkeypatch.setattr(callbacks, "SECONDS_BETWEEN_CHECKPOINTS", -math.inf)
    plant(monkeypatch, 45, steep)  # the last step before the chunk end at 46
    failed = go(tmp_path, "maf")
    assert failed.failure["step"] == 46
    last = checkpoint.load(directory(tmp_path, "maf") / "last.pt")
    assert last["step"] == 43
    assert all(value.isfinite().all() for value in last["model"].values())


def test_a_test_value_that_is_not_finite_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(module: DensityModule, x: Tensor, batch_idx: int) -> None:
        values = module.model.log_prob(x).double()
        values[7] = -math.inf  # of either evaluation batch
        module.parts.append((batch_idx, values))

    write_table(tmp_path, maf=changed(MAF, training={"max_steps": 20}))
    monkeypatch.setattr(DensityModule, "test_step", spoiled)
    failed = go(tmp_path, "maf")
    assert (failed.status, failed.metrics) == ("failed", {})
    assert failed.failure["kind"] == "non-finite log-likelihood"
    assert "test: log-likelihood is -inf at row 7 (2 such rows)" in failed.failure["message"]


def test_a_second_process_on_a_cell_is_told_so(tmp_path: Path) -> None:
    write_table(tmp_path, gaussian=GAUSSIAN)
    directory(tmp_path, "gaussian").mkdir(parents=True)
    with FileLock(directory(tmp_path, "gaussian") / "run.lock"):
        with pytest.raises(UsageError, match="another process is running this cell"):
            go(tmp_path, "gaussian")
    assert go(tmp_path, "gaussian").status == "done"


def test_a_checkpoint_of_other_settings_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(tmp_path, maf=MAF)
    plant(monkeypatch, 30)
    go(tmp_path, "maf")
    write_table(tmp_path, maf=changed(MAF, training={"learning_rate": 0.01}))
    with pytest.raises(UsageError, match="the row has changed since"):
        go(tmp_path, "maf")


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    write_table(tmp_path, maf=MAF)
    directory(tmp_path, "maf").mkdir(parents=True)
    (directory(tmp_path, "maf") / "last.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(UsageError, match=r"last\.pt: expected a checkpoint, got an unreadable"):
        go(tmp_path, "maf")


def strike(monkeypatch: pytest.MonkeyPatch, sent: signal.Signals, *steps: int) -> None:
    """Send this process a signal at some training steps."""

    def optimize(module: DensityModule, *rest: Any) -> Tensor:
        if module.step in steps:
            os.kill(os.getpid(), sent)
        return original(module, *rest)

    original = DensityModule.optimize
    monkeypatch.setattr(DensityModule, "optimize", optimize)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("at", "saved"), [(4, 6), (25, 26), (39, 40)])
def test_a_signal_stops_at_the_next_chunk_end_and_leaves_the_handlers_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: signal.Signals, at: int, saved: int
) -> None:
    write_table(tmp_path, maf=MAF)
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        strike(patch, sent, at)
        with pytest.raises(InterruptedRunError, match=f"{sent.name} at step {saved}"):
            go(tmp_path, "maf")
    assert checkpoint.load(directory(tmp_path, "maf") / "last.pt")["step"] == saved
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(tmp_path, maf=changed(MAF, training={"chunk": 20}))
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    strike(monkeypatch, signal.SIGINT, 4, 9)
    with pytest.raises(InterruptedRunError, match="SIGINT"):
        go(tmp_path, "maf")
    assert not (directory(tmp_path, "maf") / "last.pt").exists()
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_test_stops_at_once_and_the_run_goes_on_to_the_same_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: signal.Signals
) -> None:
    write_table(tmp_path, maf=MAF)

    def interrupted(*arguments: Any) -> None:
        os.kill(os.getpid(), sent)

    with monkeypatch.context() as patch:
        patch.setattr("nfbench.evaluation.likelihood_metrics", interrupted)
        with pytest.raises(InterruptedRunError, match=sent.name):
            go(tmp_path, "maf")
    assert go(tmp_path, "maf").model["steps"] == MAF["training"]["max_steps"]


@pytest.mark.parametrize("planted", [True, False])
def test_a_run_gives_the_signals_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: bool
) -> None:
    write_table(tmp_path, maf=changed(MAF, training={"max_steps": 20}))
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    if planted:
        plant(monkeypatch, 5)
    assert go(tmp_path, "maf").status == ("failed" if planted else "done")
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_the_bar_is_gone_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[ProgressBar] = []
    original = ProgressBar.on_train_start

    def started(bar: ProgressBar, *rest: Any) -> None:
        original(bar, *rest)
        assert bar.progress is not None
        bars.append(bar)

    write_table(tmp_path, maf=MAF)
    monkeypatch.setattr(ProgressBar, "on_train_start", started)
    plant(monkeypatch, 5)
    go(tmp_path, "maf", bar=True)
    assert [bar.progress for bar in bars] == [None]


def test_a_curve_forgets_the_steps_that_are_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (10, 20, 30)))
    curve = Curve(path)

    class Module(DensityModule):
        def __init__(self) -> None:
            pass

        step = 20
        summary = type("Summary", (), {"mean": -1.0, "se": 0.1})()

        def rate(self) -> float:
            return 0.5

    curve.losses = [torch.tensor([2.0, 4.0])]
    curve.on_validation_end(SimpleNamespace(loggers=[]), Module())
    lines = read_curve(path)
    assert [line["step"] for line in lines] == [10, 20]
    assert lines[-1]["train_loss"] == 3.0


def test_without_a_bar_each_validation_is_a_line_of_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_table(tmp_path, maf=changed(MAF, training={"max_steps": 40}))
    with caplog.at_level(logging.INFO, "nfbench"):
        go(tmp_path, "maf")
    lines = [message for message in caplog.messages if "val" in message]
    assert [line.split(":")[1].split(",")[0] for line in lines] == [" step 20", " step 40"]
