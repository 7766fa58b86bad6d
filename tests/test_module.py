"""Training by chunks of a flat vector is what a plain loop does; evaluation leaves it alone."""

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from harness import CPU, Location, Rows, fit, normal_rows, write_table
from torch import Tensor, nn

from nfbench import checkpoint, provenance
from nfbench.build import build_model
from nfbench.config import load
from nfbench.data import DATA
from nfbench.data.base import DataModule
from nfbench.data.batches import BatchOrder
from nfbench.errors import UsageError
from nfbench.flat import flatten, tie_gradients
from nfbench.flows import FLOWS
from nfbench.flows.flow import Flow
from nfbench.machine import trainer
from nfbench.metrics import summarize
from nfbench.module import DensityModule, NonFiniteLossError
from nfbench.nets.running import RunningStatistics, running_statistics
from nfbench.objectives import maximum_likelihood
from nfbench.schedule import Schedule
from nfbench.selection import Selection
from nfbench.training import build_module, build_schedule

SCHEDULE = Schedule(10, 40, 10, 4, learning_rate=0.01, shape="cosine", warmup_steps=5)
CONSTANT = Schedule(10, 40, 10, 4, learning_rate=0.01)


def maf(layers: int = 2, *, batch_norm: bool = True, seed: int = 0) -> Flow:
    torch.manual_seed(seed)
    return FLOWS["maf"]((2,), layers=layers, hidden=[8], batch_norm=batch_norm)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def plain(
    model: nn.Module,
    dataset: Rows,
    schedule: Schedule,
    *,
    clip_norm: float | None = None,
    ema_decay: float = 0.0,
    **options: Any,
) -> tuple[list[Tensor], list[Tensor]]:
    """The weights and their moving average after every step of a loop over many parameters."""
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, fused=False, foreach=False, **options)
    order = BatchOrder(len(dataset.splits.train), 20, 0)
    rows = torch.from_numpy(dataset.splits.train)
    trail, averages = [], list[Tensor]()
    for step in range(schedule.max_steps or 0):
        optimizer.param_groups[0]["lr"] = schedule.rate(step)
        optimizer.zero_grad()
        maximum_likelihood(model, rows[order.indices(step, step + 1)[0]]).backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, clip_norm)
        optimizer.step()
        trail.append(weights(model))
        last = averages[-1] if averages else trail[-1]  # the average starts at step 1
        averages.append(ema_decay * last + (1 - ema_decay) * trail[-1])
    return trail, averages


class Watch(pl.Callback):
    """Notes the weights after every chunk, and the weights that are evaluated."""

    def __init__(self) -> None:
        self.trained: dict[int, Tensor] = {}
        self.evaluated: dict[int, Tensor] = {}
        self.values: dict[int, float] = {}

    def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
        self.trained[module.step] = weights(module.model)

    def on_validation_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
        self.evaluated[module.step] = weights(module.model)

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        self.values[module.step] = module.summary.mean


@pytest.mark.parametrize("ema_decay", [None, 0.9])
@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_training_is_what_a_plain_loop_of_adam_does(
    ema_decay: float | None, clip_norm: float | None, weight_decay: float
) -> None:
    dataset, watch = normal_rows(), Watch()
    options: dict[str, Any] = {"weight_decay": weight_decay, "clip_norm": clip_norm}
    trail, _ = plain(maf(batch_norm=False), dataset, SCHEDULE, **options)
    model = maf(batch_norm=False)
    fit(model, dataset, SCHEDULE, watchers=[watch], ema_decay=ema_decay, **options)
    assert list(watch.trained) == [s + e for s in (0, 10, 20, 30) for e in (4, 8, 10)]
    for step, found in watch.trained.items():
        torch.testing.assert_close(found, trail[step - 1], rtol=0, atol=1e-6)


def test_clipping_and_weight_decay_change_the_training() -> None:
    dataset = normal_rows()
    choices = ({}, {"weight_decay": 1.0}, {"adam_eps": 1.0}, {"adam_eps": 1.0, "clip_norm": 0.01})
    ends = [weights(fit(maf(), dataset, CONSTANT, **options).model) for options in choices]
    assert len({tuple(end.tolist()) for end in ends}) == 4


def test_clipping_bounds_the_whole_gradient() -> None:
    norms: list[float] = []

    class Norm(pl.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
            norms.append(module.weights.grad.norm().item())

    fit(maf(), normal_rows(), CONSTANT, clip_norm=0.25, watchers=[Norm()])
    assert max(norms) <= 0.25 * (1 + 1e-5)
    assert max(norms) == pytest.approx(0.25)


def test_weight_decay_reaches_every_parameter() -> None:
    """With a loss that does not depend on them, all weights shrink."""
    model = maf()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)

    def nothing(model: nn.Module, x: Tensor, context: Tensor | None) -> Tensor:
        return sum((0 * parameter).sum() for parameter in model.parameters())

    fit(model, normal_rows(), CONSTANT, objective=nothing, weight_decay=0.1)
    assert weights(model).max() < 0.9


def test_the_average_is_evaluated_and_the_weights_in_training_are_kept(tmp_path: Path) -> None:
    dataset, watch = normal_rows(), Watch()
    trail, averages = plain(maf(batch_norm=False), dataset, CONSTANT, ema_decay=0.9)
    model = maf(batch_norm=False)
    fit(model, dataset, CONSTANT, watchers=[watch], ema_decay=0.9, directory=tmp_path)
    for step, found in watch.evaluated.items():
        torch.testing.assert_close(found, averages[step - 1], rtol=0, atol=1e-6)
        assert not torch.allclose(found, trail[step - 1], atol=1e-4)
    torch.testing.assert_close(weights(model), trail[-1], rtol=0, atol=1e-6)
    best = checkpoint.load(tmp_path / "best.pt")
    kept = maf(batch_norm=False)
    kept.load_state_dict(best["model"])
    assert torch.equal(weights(kept), watch.evaluated[best["step"]])


def test_training_goes_on_after_a_validation() -> None:
    """Lightning drops the gradients before a validation; the flat vector must not lose them."""
    watch = Watch()
    schedule = Schedule(10, 60, 10, 10, learning_rate=0.02)
    fit(Location(), normal_rows(), schedule, watchers=[watch])
    values = list(watch.values.values())
    assert len(values) == 6
    assert values == sorted(values)
    assert values[-1] > values[0] + 1


def test_evaluation_takes_the_statistics_of_the_whole_training_set(tmp_path: Path) -> None:
    dataset = normal_rows()
    fit(maf(layers=1), dataset, CONSTANT, directory=tmp_path)
    model = maf(layers=1).eval()
    model.load_state_dict(checkpoint.load(tmp_path / "best.pt")["model"])
    autoregressive, norm = model.transform.transforms
    with torch.no_grad():
        z, _ = autoregressive(torch.from_numpy(dataset.splits.train))
    var, mean = torch.var_mean(z.double(), 0, correction=0)
    torch.testing.assert_close(norm.mean.double(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm.var.double(), var, rtol=1e-5, atol=1e-6)


def test_the_value_of_a_validation_is_that_of_the_weights_it_keeps(tmp_path: Path) -> None:
    dataset = normal_rows()
    module = fit(maf(), dataset, CONSTANT, directory=tmp_path)
    model = maf().eval()
    model.load_state_dict(checkpoint.load(tmp_path / "best.pt")["model"])
    with torch.no_grad():
        values = model.log_prob(torch.from_numpy(dataset.splits.val))
    assert summarize(values).mean == module.selection.best


def test_patience_ends_the_training() -> None:
    worse = Rows.of(*(normal_rows().splits.arrays[split] for split in ("train", "val", "test")))
    selection = Selection(patience=3)
    model = Location()
    with torch.no_grad():
        model.location.copy_(torch.from_numpy(worse.splits.val.mean(0)))

    def away(model: nn.Module, x: Tensor, context: Tensor | None) -> Tensor:
        return -model.location.sum()

    schedule = Schedule(10, None, 10, 4)
    module = fit(model, worse, schedule, selection=selection, objective=away)
    assert (selection.best_step, module.step) == (10, 40)


def test_a_plateau_cuts_the_rate_of_the_steps_that_follow() -> None:
    rates: dict[int, float] = {}

    class Rate(pl.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
            rates[module.step] = module.optimizers().param_groups[0]["lr"]

    def flat(model: nn.Module, x: Tensor, context: Tensor | None) -> Tensor:
        return (0 * model.location).sum()

    selection = Selection(plateau_patience=2, plateau_factor=0.5)
    schedule = Schedule(10, 60, 10, 10, learning_rate=1.0, shape="plateau")
    fit(
        Location(), normal_rows(), schedule, selection=selection, objective=flat, watchers=[Rate()]
    )
    assert rates == {10: 1.0, 20: 1.0, 30: 1.0, 40: 0.5, 50: 0.5, 60: 0.25}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_training_and_names_its_step(bad: float) -> None:
    calls = iter(range(100))

    def planted(model: nn.Module, x: Tensor, context: Tensor | None) -> Tensor:
        loss = maximum_likelihood(model, x)
        return loss * bad if next(calls) == 17 else loss

    with pytest.raises(NonFiniteLossError, match="at step 17") as caught:
        fit(Location(), normal_rows(), CONSTANT, objective=planted)
    assert caught.value.step == 17


def test_the_noise_of_a_step_is_a_function_of_seed_phase_and_step() -> None:
    module = DensityModule(Location(), maximum_likelihood, CONSTANT, Selection(), seed=1)
    other = DensityModule(Location(), maximum_likelihood, CONSTANT, Selection(), seed=2)

    def draw(module: DensityModule, phase: int, step: int) -> float:
        module.draw_from(phase, step)
        return torch.rand(()).item()

    keys = [(m, phase, step) for m in (module, other) for phase in range(3) for step in (0, 9)]
    draws = [draw(*key) for key in keys]
    assert len(set(draws)) == len(draws)
    assert [draw(*key) for key in reversed(keys)] == draws[::-1]


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match="adam, adamax; got 'sgd'"):
        DensityModule(Location(), maximum_likelihood, CONSTANT, Selection(), optimizer="sgd")


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_training_steps_alone_multiply_matrices_in_less(precision: str) -> None:
    trained, evaluated = [], []

    class Watched(Location):
        def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
            (evaluated if not self.training else trained).append(get())
            return super().log_prob(x, context)

    get = torch.get_float32_matmul_precision
    fit(Watched(), normal_rows(), CONSTANT, matmul_precision=precision)
    assert (set(trained), set(evaluated), get()) == ({precision}, {"highest"}, "highest")


@pytest.mark.parametrize(
    ("flow", "culprit"),
    [
        ({"name": "maf", "layers": 2}, None),
        ({"name": "realnvp", "layers": 2}, None),
        ({"name": "nsf", "kind": "autoregressive", "layers": 1}, "LULinear"),
        ({"name": "nice", "mixing": "orthogonal"}, "Orthogonal"),
        ({"name": "sylvester", "layers": 1}, "Sylvester"),
        ({"name": "ffjord", "hidden": [8]}, "ODE"),
    ],
)
def test_a_flow_that_multiplies_matrices_itself_is_not_trained_in_less(
    flow: dict[str, Any], culprit: str | None, tmp_path: Path
) -> None:
    training = {"max_steps": 1, "matmul_precision": "medium"}
    row = {"title": "Row", "flow": flow, "training": training, "cells": {"pinwheel": {}}}
    experiment = load("tiny/row", "pinwheel", root=write_table(tmp_path, row=row))
    model = build_model(experiment, DATA["pinwheel"])
    with nullcontext() if culprit is None else pytest.raises(UsageError, match=culprit):
        build_module(experiment, model, build_schedule(experiment, 10))


def test_the_command_of_a_run_tells_how_it_computed(tmp_path: Path) -> None:
    flow, training = {"name": "maf", "layers": 2}, {"max_steps": 1}
    row = {"title": "Row", "flow": flow, "training": training, "cells": {"pinwheel": {}}}
    experiment = load("tiny/row", "pinwheel", root=write_table(tmp_path, row=row))
    plain = fit(Location(), normal_rows(), CONSTANT)
    other = DensityModule(
        Location(), maximum_likelihood, CONSTANT, Selection(), compile=True, shard=True
    )
    part = provenance.begin(tmp_path)
    commands = [
        provenance.describe(experiment, module, [part | provenance.means(module)], 0.0)["command"]
        for module in (plain, other)
    ]
    words = "nfbench run tiny/row pinwheel --seed 0"
    assert commands == [words, f"{words} --compile --shard"]


def test_the_precision_of_products_is_put_back_when_a_step_fails() -> None:
    def broken(model: nn.Module, *arguments: object) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(Location(), normal_rows(), CONSTANT, objective=broken, matmul_precision="medium")
    assert torch.get_float32_matmul_precision() == "highest"


def test_running_statistics_are_averaged_where_the_model_has_been_moved_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Buffers are other tensors after a move, as to a GPU."""
    averaged = list[Tensor]()

    def watched(tensor: Tensor) -> Tensor:
        averaged.append(tensor)
        return tensor

    monkeypatch.setattr("nfbench.module.average", watched)
    model = Location()
    model.norm = RunningStatistics(2)
    data = DataModule(normal_rows(), batch_size=20)
    data.setup()
    module = DensityModule(model, maximum_likelihood, CONSTANT, Selection())
    module.to(torch.float64).to(torch.float32)
    data.schedule, data.step = CONSTANT, lambda: module.step
    trainer(CPU, []).fit(module, datamodule=data)
    for statistic in running_statistics(model):
        assert any(each is statistic for each in averaged)


def test_flat_parameters_keep_their_values_and_share_the_vector() -> None:
    model = maf()
    before, parameters = weights(model), list(model.parameters())
    vector = flatten(parameters)
    assert torch.equal(weights(model), before)
    tie_gradients(vector, parameters)
    maximum_likelihood(model, torch.randn(8, 2)).backward()
    norm = torch.cat([parameter.grad.flatten() for parameter in parameters]).norm()
    torch.testing.assert_close(vector.grad.norm(), norm)
    with torch.no_grad():
        vector.zero_()
    assert not weights(model).any()


def test_lightning_evaluates_without_training() -> None:
    dataset = normal_rows()
    data = DataModule(dataset, batch_size=20, eval_batch_size=7)
    data.setup()
    module = DensityModule(Location(), maximum_likelihood, CONSTANT, Selection())
    trainer(CPU, []).test(module, datamodule=data, verbose=False)
    values = module.log_probs
    assert values.dtype == torch.float64
    torch.testing.assert_close(values.float(), Location()(torch.from_numpy(dataset.splits.test)))
