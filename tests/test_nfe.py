"""Evaluations of the right-hand side: what is counted, shown and kept, and what a cut changes."""

import copy
import json
import logging
import math
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import CPU, MAF, changed, comparable, fit, normal_rows, write_table
from matplotlib.image import imread
from ode_cases import Generic
from test_run import directory, go, strike

import nfbench.run as run_module
from nfbench import callbacks, checkpoint, figures, portrait, record, tables
from nfbench.curve import read_curve
from nfbench.data import DATA
from nfbench.data.base import DataModule
from nfbench.density import DensityModel
from nfbench.distributions.base import StandardNormal
from nfbench.errors import OdeError
from nfbench.evaluation import evaluate
from nfbench.flows.class_conditional import ClassConditional
from nfbench.flows.flow import Flow
from nfbench.machine import trainer
from nfbench.module import DensityModule
from nfbench.nets.mlp_field import MLPField
from nfbench.nfe import NfeMeter
from nfbench.plots import plot
from nfbench.progress import ProgressBar
from nfbench.schedule import Schedule
from nfbench.signals import InterruptedRunError
from nfbench.speed import BATCH
from nfbench.transforms.base import Compose
from nfbench.transforms.ode import ODE
from nfbench.transforms.reversible import Reversible

STEPS, EVERY, CHUNK = 24, 8, 3
ODE_ROW = {
    "title": "ODE",
    "flow": {"name": "ffjord", "hidden": [8], "atol": 1e-3, "rtol": 1e-2, "gradient": "replay"},
    "data": {"batch_size": 20},
    "training": {"max_steps": STEPS, "validate_every": EVERY, "chunk": CHUNK},
    "cells": {"pinwheel": {}},
}
ESTIMATE = {"exact_dims": 0, "probes": 2}
SHORT = Schedule(steps_per_epoch=10, max_steps=6, validate_every=3, chunk=2)


def ode(**options: Any) -> ODE:
    return ODE(
        MLPField(2, hidden=(8,)), **{"atol": 1e-3, "rtol": 1e-2, "gradient": "replay"} | options
    )


def flow_of(*parts: ODE) -> Flow:
    return Flow(StandardNormal([2]), Compose(parts))


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of a small data set, without the figures, audits and timings that others test."""
    small = replace(DATA["pinwheel"], sizes=(200, 50, 40))
    monkeypatch.setitem(DATA, "pinwheel", small)
    monkeypatch.setattr(run_module, "save_pictures", lambda model, data, file: np.savez(file))
    monkeypatch.setattr(run_module, "audit", lambda model, rows: {})
    monkeypatch.setattr(run_module, "measure", lambda model, rows: {})


class Tally:
    """Evaluations as the field sees them: its weights are made once in each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.place = "elsewhere"
        affine = MLPField.affine

        def counted(field: MLPField, *arguments: Any) -> Any:
            self.counts[self.place] += 1
            return affine(field, *arguments)

        monkeypatch.setattr(MLPField, "affine", counted)
        self.watch(monkeypatch, DensityModule, "optimize", "forward")
        self.watch(monkeypatch, DensityModule, "manual_backward", "backward")
        self.watch(monkeypatch, DensityModule, "test_step", "evaluation")
        self.watch(monkeypatch, NfeMeter, "sample", "sampling")

    def watch(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, place: str) -> None:
        """Count what is evaluated inside of a method, but not of one inside of it, apart."""
        original: Callable[..., Any] = getattr(owner, name)

        def watched(*arguments: Any) -> Any:
            before, self.place = self.place, place
            self.calls[place] += 1
            try:
                return original(*arguments)
            finally:
                self.place = before

        monkeypatch.setattr(owner, name, watched)

    def take(self) -> dict[str, float]:
        """Mean evaluations of a call by place, since the last time."""
        means = {place: self.counts[place] / n for place, n in self.calls.items()}
        self.counts.clear()
        self.calls.clear()
        return means


@pytest.mark.parametrize("gradient", ["adjoint", "replay", "autograd"])
def test_a_record_and_the_curve_count_what_the_field_counts(
    gradient: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tally, intervals = Tally(monkeypatch), []
    original = DensityModule.on_validation_epoch_end

    def at_validation(module: DensityModule) -> None:
        if module.trainer.state.fn == "fit":
            intervals.append(tally.take())
        original(module)

    monkeypatch.setattr(DensityModule, "on_validation_epoch_end", at_validation)
    write_table(tmp_path, ode=changed(ODE_ROW, flow={"gradient": gradient}))
    result = go(tmp_path, "ode")
    rest = tally.take()
    expected = {
        "forward": intervals[-1]["forward"],
        "backward": intervals[-1]["backward"],
        "evaluation": rest["evaluation"],
        "evaluation_batch": 40,
        "sampling": rest["sampling"],
        "sampling_batch": BATCH,
    }
    assert result.likelihood == {
        "kind": "exact",
        "odes": 1,
        "solver": "dopri5",
        "atol": 1e-3,
        "rtol": 1e-2,
        "nfe": expected,
    }
    assert min(expected["forward"], expected["evaluation"], expected["sampling"]) > 6
    assert (expected["backward"] > 0) == (gradient != "autograd")
    lines = read_curve(directory(tmp_path, "ode") / "curve.jsonl")
    assert [(line["nfe_forward"], line["nfe_backward"]) for line in lines] == [
        (each["forward"], each["backward"]) for each in intervals
    ]
    assert len(lines) == STEPS // EVERY
    assert record.read(tmp_path / "results/tiny/ode/pinwheel/0.json") == result


def test_a_solve_of_several_backwards_counts_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = Tally(monkeypatch)
    chain = Reversible([ode(), ode()])
    schedule = replace(SHORT, max_steps=3)
    module = fit(Flow(StandardNormal([2]), chain), normal_rows(40), schedule)
    found, expected = module.nfe.describe(), tally.take()
    assert found["odes"] == 2
    assert found["nfe"] == {phase: expected[phase] / 2 for phase in ("forward", "backward")}
    assert found["nfe"]["backward"] > 2.5 * found["nfe"]["forward"]


def test_solvers_that_differ_are_told_apart() -> None:
    flow = flow_of(
        ode(), ode(solver="rk4", step_size=0.5, gradient="autograd"), ode(atol=1e-4, rtol=1e-9)
    )
    assert NfeMeter(flow).describe() == {
        "odes": 3,
        "solver": ["dopri5", "rk4", "dopri5"],
        "step_size": 0.5,
        "atol": [1e-3, 1e-4],
        "rtol": [1e-2, 4 * torch.finfo(torch.float32).eps],
        "nfe": {},
    }


def test_the_norm_is_told_where_it_is_not_the_usual_one() -> None:
    euler = ode(solver="rk4", step_size=0.5, gradient="autograd")  # controls no step
    for parts, expected in (
        ([ode(), ode(norm="rms"), euler], None),
        ([ode(norm="max"), ode(norm="max"), euler], "max"),
        ([ode(), ode(norm="max")], ["rms", "max"]),
    ):
        assert NfeMeter(flow_of(*parts)).describe().get("norm") == expected


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Lose all since the last checkpoint at a training step."""

    def optimize(module: DensityModule, *rest: Any) -> torch.Tensor:
        if module.step == step:
            raise KeyboardInterrupt
        return original(module, *rest)

    original = DensityModule.optimize
    monkeypatch.setattr(DensityModule, "optimize", optimize)


@pytest.mark.parametrize("flow", [{}, ESTIMATE], ids=["exact", "estimate"])
def test_a_run_cut_inside_of_intervals_counts_as_one_never_cut(
    flow: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = changed(ODE_ROW, flow=flow, training={"learning_rate": 0.1})
    cut, whole = (write_table(tmp_path / name, ode=row) for name in ("cut", "whole"))
    last = directory(cut, "ode") / "last.pt"
    for step in (9, 17):
        with monkeypatch.context() as patch:
            strike(patch, signal.SIGTERM, step)
            with pytest.raises(InterruptedRunError):
                go(cut, "ode")
    assert checkpoint.load(last)["step"] == 19
    with monkeypatch.context() as patch:
        patch.setattr(callbacks, "SECONDS_BETWEEN_CHECKPOINTS", -math.inf)
        stop_at(patch, 23)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            go(cut, "ode")
    state = checkpoint.load(last)
    assert state["step"] == 22
    assert state["nfe"]["interval"]["forward"][0] == 22 - 16
    records, curves = [], []
    for root in (cut, whole):
        records.append(comparable(go(root, "ode")))
        curve = read_curve(directory(root, "ode") / "curve.jsonl")
        curves.append([(each["nfe_forward"], each["nfe_backward"]) for each in curve])
    assert records[0] == records[1]
    assert curves[0] == curves[1]
    assert len(set(curves[1])) > 1, "the intervals differ, or any of them would do"


def test_a_run_cut_after_its_training_keeps_the_counts_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(tmp_path, ode=ODE_ROW)

    def refused(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "evaluate", refused)
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path, "ode")
    line = read_curve(directory(tmp_path, "ode") / "curve.jsonl")[-1]
    found = go(tmp_path, "ode").likelihood["nfe"]
    assert (found["forward"], found["backward"]) == (line["nfe_forward"], line["nfe_backward"])


def evaluated(model: DensityModel, n: int = 60, **options: Any) -> DensityModule:
    """A module after three steps of training and the evaluation of n / 2 rows."""
    module = fit(model, normal_rows(n), replace(SHORT, max_steps=3))
    data = DataModule(normal_rows(n), batch_size=20, **options)
    data.setup()
    evaluate(module, data, trainer(CPU, []))
    return module


def test_the_standard_error_over_the_probes_is_that_of_the_mean(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches: list[list[list[float]]] = []
    original = Flow.log_prob

    def noted(flow: Flow, *arguments: Any) -> torch.Tensor:
        values = original(flow, *arguments)
        if not flow.training:
            batches.append([part.log_det_se.tolist() for part in flow.transform.parts])
        return values

    monkeypatch.setattr(Flow, "log_prob", noted)
    module = evaluated(flow_of(ode(**ESTIMATE), ode(**ESTIMATE)), eval_batch_size=12)
    found = module.nfe.describe()
    assert (found["probes"], found["nfe"]["evaluation_batch"]) == (2, 12)
    last = batches[-3:]  # 12, 12 and 6 rows
    assert sum(len(first) for first, _ in last) == 30
    total = sum(error**2 for batch in last for errors in batch for error in errors)
    assert found["probes_se"] == pytest.approx(math.sqrt(total) / 30, rel=1e-6)


def test_it_is_how_far_the_mean_moves_with_the_noise() -> None:
    torch.manual_seed(3)
    model = flow_of(ode(exact_dims=0, probes=8, noise="gaussian")).eval()
    meter, rows = NfeMeter(model), torch.randn(200, 2)
    means, told = [], []
    with torch.no_grad():
        for _ in range(60):
            meter.begin_evaluation()
            means.append(model.log_prob(rows).mean().item())
            meter.end_batch(len(rows))
            told.append(meter.describe()["probes_se"])
    assert np.std(means) == pytest.approx(np.mean(told), rel=0.35)


@pytest.mark.parametrize("options", [{"exact_dims": 0}, {"probes": 2}], ids=["one", "exact"])
def test_one_probe_tells_no_standard_error_and_an_exact_trace_has_none(
    options: dict[str, Any],
) -> None:
    found = evaluated(flow_of(ode(**options), ode(**ESTIMATE))).nfe.describe()
    is_exact = "exact_dims" not in options
    assert ("probes_se" in found) == is_exact
    assert found["probes"] == (2 if is_exact else [1, 2])


def test_a_mixture_over_classes_tells_no_standard_error() -> None:
    field = MLPField(2, hidden=(8,), context_features=3)
    flow = Flow(StandardNormal([2]), ODE(field, atol=1e-3, rtol=1e-2, **ESTIMATE))
    meter = NfeMeter(ClassConditional(flow, 3).eval())
    with torch.no_grad():
        meter.model.log_prob(torch.randn(5, 2))
    meter.end_batch(5)
    assert meter.evaluation["evaluation"][0] == 3
    assert "probes_se" not in meter.describe()


def test_a_field_without_derivatives_of_its_own_is_evaluated_as_one_with() -> None:
    """In Lightning's inference mode autograd would find no divergence, and none would tell."""
    part = ode(atol=1e-6, rtol=1e-6)
    twin = ode(atol=1e-6, rtol=1e-6)
    twin.field = Generic(copy.deepcopy(part.field))
    values = [evaluated(flow_of(each)).log_probs for each in (part, twin)]
    torch.testing.assert_close(*values, atol=1e-3, rtol=0.0)


def test_samples_that_fail_are_not_counted(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Flow):
        def sample(self, n: int, *rest: Any, **options: Any) -> torch.Tensor:
            raise OdeError("ODE: no way")

    meter = NfeMeter(Failing(StandardNormal([2]), ode()))
    with caplog.at_level(logging.WARNING, "nfbench"):
        meter.sample(4)
    assert caplog.messages == ["nfe: no samples: ODE: no way"]
    assert "sampling" not in meter.describe()["nfe"]


def test_counting_samples_draws_no_random_numbers_of_others() -> None:
    meter = NfeMeter(flow_of(ode()))
    before = torch.get_rng_state()
    meter.sample(4)
    first = meter.sampling
    meter.sample(4)
    assert torch.equal(torch.get_rng_state(), before)
    assert meter.model.training
    assert meter.sampling == first != NfeMeter(meter.model).sampling


def test_a_model_without_odes_has_nothing_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_table(tmp_path, maf=changed(MAF, training={"max_steps": 40}))
    with caplog.at_level(logging.INFO, "nfbench"):
        result = go(tmp_path, "maf")
    assert result.likelihood == {"kind": "exact"}
    folder = directory(tmp_path, "maf")
    assert set(read_curve(folder / "curve.jsonl")[0]) == {
        "step",
        "train_loss",
        "val_log_likelihood",
        "val_log_likelihood_se",
        "learning_rate",
    }
    assert "nfe" not in checkpoint.load(folder / "last.pt")
    assert not any("NFE" in message for message in caplog.messages)


def test_the_bar_and_the_log_show_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shown: list[str] = []
    original = ProgressBar.refresh

    def refresh(bar: ProgressBar, module: DensityModule) -> None:
        original(bar, module)
        counts = module.nfe.chunk
        means = [counts[phase][1] / counts["forward"][0] for phase in ("forward", "backward")]
        shown.append(bar.progress.tasks[0].fields["now"])
        assert "  NFE {:.0f} + {:.0f}  ".format(*means) in shown[-1]

    write_table(tmp_path, ode=changed(ODE_ROW, training={"max_steps": EVERY}))
    monkeypatch.setattr(ProgressBar, "refresh", refresh)
    go(tmp_path, "ode", bar=True)
    assert len(shown) == math.ceil(EVERY / CHUNK) + 1
    assert shown[-1].startswith("train ")
    assert "best val" in shown[-1]
    write_table(tmp_path / "log", ode=changed(ODE_ROW, training={"max_steps": EVERY}))
    with caplog.at_level(logging.INFO, "nfbench"):
        found = go(tmp_path / "log", "ode").likelihood["nfe"]
    (line,) = (message for message in caplog.messages if "val" in message)
    assert line.endswith(f"nats  NFE {found['forward']:.0f} + {found['backward']:.0f}")


def test_a_run_is_drawn_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    original = figures.draw_nfe
    monkeypatch.setattr(
        portrait, "draw_nfe", lambda axis, **rest: drawn.append(axis) or original(axis, **rest)
    )
    write_table(tmp_path, ode=ODE_ROW, maf=changed(MAF, training={"max_steps": 40}))
    curve = [
        {"step": s, "train_loss": 3.0, "val_log_likelihood": -2.5, "nfe_forward": 14.0 + s}
        | {"nfe_backward": 20.0}
        for s in (1, 2)
    ]
    for row, keep in (("ode", True), ("maf", False)):
        folder = directory(tmp_path, row)
        folder.mkdir(parents=True)
        kept = [{k: v for k, v in line.items() if keep or "nfe" not in k} for line in curve]
        (folder / "curve.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    alone = imread(plot("tiny/maf/pinwheel", root=tmp_path)).shape
    assert not drawn
    assert imread(plot("tiny/ode/pinwheel", root=tmp_path)).shape[:2] != (0, 0) != alone
    (axis,) = drawn
    lines = {line.get_label(): line.get_xydata().tolist() for line in axis.get_lines()}
    assert lines == {"forward": [[1, 15], [2, 16]], "backward": [[1, 20], [2, 20]]}
    assert axis.get_ylim()[0] == 0


def test_a_table_shows_them_of_each_cell(tmp_path: Path) -> None:
    few = {"max_steps": 2, "validate_every": 2}
    write_table(tmp_path, ode=changed(ODE_ROW, training=few), maf=changed(MAF, training=few))
    file = tmp_path / "experiments" / "tiny" / "table.yaml"
    file.write_text(file.read_text() + "extra: {nfe/evaluation: {heading: NFE, decimals: 1}}\n")
    results = [go(tmp_path, row) for row in ("ode", "maf")]
    found = results[0].likelihood["nfe"]["evaluation"]
    lines = {line["row"]: line for line in tables.lines(tables.build("tiny", tmp_path))}
    assert lines["ode"]["NFE"] == f"{found:.1f}"
    assert lines["maf"]["NFE"] == ""
    assert "- NFE: `nfe/evaluation`." in tables.markdown(tables.build("tiny", tmp_path))


def test_passes_of_a_table_are_the_evaluations_of_all_odes(tmp_path: Path) -> None:
    few = {"max_steps": 2, "validate_every": 2}
    write_table(tmp_path, ode=changed(ODE_ROW, flow={"blocks": 2}, training=few))
    result = go(tmp_path, "ode")
    audit = {"log_det_error": None, "round_trip_error_float32": None}
    audit |= {"passes_per_log_prob": 0, "passes_per_sample": 1}
    record.amend(result, tmp_path, audit=audit)
    (line,) = tables.lines(tables.build("tiny", tmp_path))
    nfe = result.likelihood["nfe"]
    assert result.likelihood["odes"] == 2
    assert line["passes"] == f"{round(2 * nfe['evaluation'])} / {1 + round(2 * nfe['sampling'])}"
