"""Times at rising sizes of batch: which are taken, where they end, what a record says of them."""

import json
import logging
import time
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from harness import CPU, Location

from nfbench import speed
from nfbench.speed import Curve, Point, climb, described, measure, tried

SIZES = (1, 16, 64, 256, 1024, 4096, 16384)


@pytest.fixture
def climbed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Curve]:
    """The curve of a model whose seconds for a batch are known, by a clock that shows them."""
    monkeypatch.setattr(speed, "clock", lambda call, device: call())

    def curve(cost: Callable[[int], float], sizes: Iterable[int] = SIZES) -> Curve:
        return climb(lambda n: lambda: cost(n), CPU, sizes, repeats=3, seconds=60.0)

    return curve


def batches(curve: Curve) -> list[int]:
    return [point.batch for point in curve.points]


def test_it_ends_where_the_throughput_hardly_grows(climbed: Callable[..., Curve]) -> None:
    # Rows a second: 39,024 of 64, 71,910 of 256, 91,103 of 1024, 97,616 of 4096: 7 per cent more.
    curve = climbed(lambda n: 1e-3 + 1e-5 * n)
    assert batches(curve) == [1, 16, 64, 256, 1024, 4096]
    assert curve.end == "saturated"
    assert curve.per_second == pytest.approx(4096 / (1e-3 + 4096e-5))


def test_the_best_may_be_a_smaller_batch(climbed: Callable[..., Curve]) -> None:
    curve = climbed(lambda n: 1e-3 if n <= 256 else 1e-5 * n)
    assert batches(curve)[-1] == 1024
    assert curve.end == "saturated"
    assert curve.per_second == pytest.approx(256_000)


def test_small_batches_are_all_taken(climbed: Callable[..., Curve]) -> None:
    assert batches(climbed(lambda n: 1e-4 * n)) == [1, 16, 64, 256]
    slow = climbed(lambda n: 2.0 + 1e-3 * n)
    assert (batches(slow), slow.end) == ([1, 16, 64], "too long")


def test_it_ends_before_calls_take_long(climbed: Callable[..., Curve]) -> None:
    curve = climbed(lambda n: 0.1 * n**0.25)
    assert (batches(curve), curve.end) == ([1, 16, 64, 256, 1024], "too long")


def test_it_ends_with_the_largest(climbed: Callable[..., Curve]) -> None:
    curve = climbed(lambda n: 1e-3)
    assert (batches(curve), curve.end) == (list(SIZES), "largest")


def test_the_batch_of_a_row_is_the_first_whatever_it_is(climbed: Callable[..., Curve]) -> None:
    assert batches(climbed(lambda n: 3.0, (500, 2000))) == [500]
    assert batches(climbed(lambda n: 1e-3, (20, 80, 320))) == [20, 80, 320]


def test_it_ends_where_memory_does(climbed: Callable[..., Curve]) -> None:
    def cost(n: int) -> float:
        if n > 256:
            raise torch.OutOfMemoryError("none left")
        return 1e-3

    curve = climbed(cost)
    assert (batches(curve), curve.end) == ([1, 16, 64, 256], "out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        climbed(cost, [1024])


def test_what_fails_has_no_points_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    def fail(n: int) -> Callable[[], object]:
        raise ValueError("no way")

    with caplog.at_level(logging.WARNING, logger="nfbench"):
        curve = tried("sample", fail, CPU, SIZES)
    assert "speed: no sample: no way" in caplog.text
    assert described("sample", "samples", curve, 64, whole=True) == {}


def test_seconds_are_those_that_a_call_takes() -> None:
    """A call that sleeps 10 ms and 0.1 ms a row, by the real clock, which may only be late."""
    curve = climb(lambda n: lambda: time.sleep(0.01 + 1e-4 * n), CPU, (1, 64), 5, 5.0)
    for point, least in zip(curve.points, (0.0101, 0.0164), strict=True):
        assert len(point.times) == 5
        assert least <= min(point.times) <= 2 * least
        assert 0 < point.per_second <= point.batch / least


def test_a_curve_is_told_with_medians_quartiles_and_the_best() -> None:
    times = [[0.4, 0.1, 0.2, 0.8, 0.3], [0.5, 0.7]]
    points = [Point(64, times[0]), Point(256, times[1])]
    found = described("sample", "samples", Curve(points, "saturated"), 64, whole=True)
    low, middle, high = 1000 * np.percentile(times[0], [25, 50, 75])
    assert found["sample_ms"] == pytest.approx(middle)
    assert found["sample_ms_quartiles"] == pytest.approx([low, high])
    assert found["samples_per_second"] == pytest.approx(256 / 0.6)
    assert found["sample_curve_end"] == "saturated"
    assert found["sample_curve"] == [
        {
            "batch": 64,
            "ms": found["sample_ms"],
            "ms_quartiles": found["sample_ms_quartiles"],
            "ms_repeats": 5,
        },
        {
            "batch": 256,
            "ms": pytest.approx(600),
            "ms_quartiles": pytest.approx([550, 650]),
            "ms_repeats": 2,
        },
    ]
    quick = described("sample", "samples", Curve(points, ""), 64, whole=False)
    assert set(quick) == {"sample_ms", "sample_ms_quartiles", "sample_ms_repeats"}


def test_of_one_size_there_is_no_curve_and_of_more_there_is() -> None:
    model, rows = Location(3), torch.zeros(10, 3)
    quick, whole = measure(model, rows), measure(model, rows, batches=(16, 64))
    assert set(whole) - set(quick) == {
        f"{name}{key}"
        for name in ("log_prob", "sample")
        for key in ("s_per_second", "_curve", "_curve_end")
    }
    assert set(quick) < set(whole)
    assert whole["log_probs_per_second"] > 0  # type: ignore[operator]
    json.dumps(whole, allow_nan=False)
