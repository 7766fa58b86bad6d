"""Times of densities and samples: what is measured, how often, and that nothing else changes."""

import json
import logging
from dataclasses import asdict
from itertools import count
from pathlib import Path
from signal import SIGINT

import numpy as np
import pytest
import torch
from harness import MAF, changed, comparable, write_table
from torch import Tensor, nn

from nfbench import record, speed
from nfbench.config import load
from nfbench.density import DensityModel
from nfbench.run import run
from nfbench.signals import InterruptedRunError

SHORT = changed(MAF, training={"max_steps": 20})


class Watched(DensityModel):
    """Says what it is asked for, and draws random numbers."""

    likelihood = "exact"

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.error = error
        self.asked: list[tuple[str, int]] = []

    def note(self, what: str, n: int) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.asked.append((what, n))
        return self.weight * torch.randn(n)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.note("log_prob", len(x))

    def sample(self, n: int, context: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
        if self.error is not None:
            raise self.error
        return self.note("sample", n)


def steady(monkeypatch: pytest.MonkeyPatch, ticks: list[float]) -> None:
    """Let the clock show the sums of these seconds, again and again."""
    now = [0.0]
    numbers = count()

    def tick() -> float:
        now[0] += ticks[next(numbers) % len(ticks)]
        return now[0]

    monkeypatch.setattr(speed.time, "perf_counter", tick)


def test_both_ways_are_timed_after_a_call_that_does_not_count() -> None:
    model = Watched()
    found = speed.measure(model, torch.zeros(100, 3), repeats=4, seconds=60)
    assert model.asked == [("log_prob", 64)] * 5 + [("sample", 64)] * 5
    assert found["batch"] == 64
    assert found["device"] == "cpu"
    assert found["threads"] == torch.get_num_threads()
    for name in ("log_prob", "sample"):
        low, high = found[f"{name}_ms_quartiles"]  # type: ignore[misc]
        assert 0 < low <= found[f"{name}_ms"] <= high < 1000  # type: ignore[operator]
        assert found[f"{name}_ms_repeats"] == 4
    assert model.training
    json.dumps(found, allow_nan=False)


def test_where_there_are_fewer_rows_than_in_a_batch_they_are_taken_again() -> None:
    rows = torch.arange(6).view(3, 2)
    assert speed.cycled(rows, 2).tolist() == [[0, 1], [2, 3]]
    assert speed.cycled(rows, 5).tolist() == [[0, 1], [2, 3], [4, 5], [0, 1], [2, 3]]
    model = Watched()
    speed.measure(model, torch.zeros(5, 3))
    assert set(model.asked) == {("log_prob", 64), ("sample", 64)}


def test_median_and_quartiles_are_those_of_the_times(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [9.0, 0.4, 0.1, 0.2, 0.8, 0.3]  # the first call does not count
    times = iter(seconds * 2)
    monkeypatch.setattr(speed, "clock", lambda call, device: next(times))
    found = speed.measure(Watched(), torch.zeros(9, 2), repeats=5, seconds=60)
    expected = 1000 * np.percentile(seconds[1:], [25, 50, 75])
    for name in ("log_prob", "sample"):
        assert found[f"{name}_ms"] == pytest.approx(expected[1])
        assert found[f"{name}_ms_quartiles"] == pytest.approx(expected[[0, 2]].tolist())


def test_a_slow_model_is_called_as_often_as_there_is_time_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steady(monkeypatch, [1.0])  # every look at the clock takes a second
    model = Watched()
    found = speed.measure(model, torch.zeros(9, 2), repeats=50, seconds=20)
    asked = [what for what, _ in model.asked]
    assert 2 < asked.count("log_prob") < 15
    assert found["log_prob_ms_repeats"] == asked.count("log_prob") - 1
    assert found["log_prob_ms"] == 1000


def test_a_slow_warm_up_takes_no_time_from_the_calls_that_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A first call that compiles for longer than all the others may take."""
    now, calls = [0.0], count()
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])

    def call() -> None:
        now[0] += 0.001 if next(calls) else 1.2

    for seconds in (1.0, 2.0):
        now[0], calls = 0.0, count()
        times = speed.timed(call, torch.device("cpu"), 20, seconds)
        assert times == pytest.approx([0.001] * 20)


@pytest.mark.parametrize("seconds", [0.0, 1e-9])
def test_a_model_that_takes_all_the_time_is_called_once_after_its_warm_up(seconds: float) -> None:
    model = Watched()
    found = speed.measure(model, torch.zeros(9, 2), seconds=seconds)
    assert [what for what, _ in model.asked] == ["log_prob"] * 2 + ["sample"] * 2
    assert found["log_prob_ms_repeats"] == found["sample_ms_repeats"] == 1
    assert found["sample_ms_quartiles"] == [found["sample_ms"]] * 2


def test_random_numbers_of_others_stay_as_they_are() -> None:
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    speed.measure(Watched(), torch.zeros(9, 2))
    assert torch.equal(torch.rand(3), expected)


def test_what_fails_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="nfbench"):
        found = speed.measure(Watched(ValueError("no way back")), torch.zeros(9, 2))
    assert "speed: no sample: no way back" in caplog.text
    assert "log_prob_ms" in found
    assert not any(key.startswith("sample") for key in found)


def test_a_signal_is_no_failure() -> None:
    with pytest.raises(InterruptedRunError):
        speed.measure(Watched(InterruptedRunError(SIGINT)), torch.zeros(9, 2))


def test_an_accelerator_is_waited_for_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append("wait"))
    speed.clock(lambda: events.append("call"), torch.device("cuda"))
    assert events == ["wait", "call", "wait"]
    speed.clock(lambda: events.append("call"), torch.device("cpu"))
    assert events[3:] == ["call"]


def test_a_run_records_its_times_and_all_else_is_as_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = [write_table(tmp_path / name, maf=SHORT) for name in ("timed", "not")]
    timed = run(load("tiny/maf", "pinwheel", root=roots[0]), root=roots[0], device="cpu")
    monkeypatch.setattr("nfbench.run.measure", lambda model, rows: {})
    plain = run(load("tiny/maf", "pinwheel", root=roots[1]), root=roots[1], device="cpu")
    assert timed.speed["batch"] == speed.BATCH
    assert min(timed.speed["log_prob_ms"], timed.speed["sample_ms"]) > 0
    assert plain.speed == {}
    assert comparable(timed) == comparable(plain)
    path = roots[0] / "results" / "tiny" / "maf" / "pinwheel" / "0.json"
    assert asdict(record.read(path)) == asdict(timed)
