"""How long a trained model takes for densities and for samples, in batches of one size or more."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

import torch
from torch import Tensor

from nfbench.density import DensityModel
from nfbench.signals import InterruptedRunError

log = logging.getLogger("nfbench")
BATCH, REPEATS = 64, 20
SECONDS = 2.0  # for the repeats at one batch size
GROWTH = 1.1  # of the throughput: less with the next batch size is saturation
LONGEST = 0.5  # seconds of a call after which no larger batch is tried

Speed = dict[str, object]
Calls = Callable[[int], Callable[[], object]]  # batch size -> what is timed


@dataclass(frozen=True)
class Point:
    """The seconds of some calls for a batch of this size."""

    batch: int
    times: list[float]

    @property
    def per_second(self) -> float:
        """Rows in a second, at the median."""
        return self.batch / median(self.times)


@dataclass(frozen=True)
class Curve:
    """Points at batch sizes that rise, and why there is none of a larger batch, in words."""

    points: Sequence[Point]
    end: str

    @property
    def per_second(self) -> float:
        """Rows in a second at the best size of batch; at least one point is needed."""
        return max(point.per_second for point in self.points)


def measure(
    model: DensityModel,
    rows: Tensor,
    *,
    batches: Iterable[int] = (BATCH,),
    repeats: int = REPEATS,
    seconds: float = SECONDS,
) -> Speed:
    """Milliseconds for the densities of a batch of rows of data (N, *event), and for its samples.

    ``log_prob_ms`` and ``sample_ms`` are medians, ``..._quartiles`` the first and third quartile
    of ``..._repeats`` calls in evaluation mode, after one that does not count; fewer than
    ``repeats``, but at least one, where more would take longer than ``seconds``. They are of
    ``batch`` rows. Of more batch sizes than this one ``climb`` takes as many as pay, and there
    are ``log_probs_per_second``, ``samples_per_second`` and curves as well.
    Random numbers of others stay as they are. What fails is left out, with a warning: no time is
    worth a run.
    """
    training, batches = model.training, tuple(batches)
    model.eval()
    found: Speed = {
        "batch": BATCH,
        "device": rows.device.type,
        "threads": torch.get_num_threads(),
    }

    def log_probs(n: int) -> Callable[[], object]:
        batch = cycled(rows, n)
        return lambda: model.log_prob(batch)

    calls: dict[str, Calls] = {"log_prob": log_probs, "sample": lambda n: lambda: model.sample(n)}
    for name, of_batch in calls.items():
        with torch.no_grad():
            curve = tried(name, of_batch, rows.device, batches, repeats, seconds)
        found |= described(name, f"{name}s", curve, BATCH, whole=len(batches) > 1)
    model.train(training)
    return found


def cycled(rows: Tensor, n: int) -> Tensor:
    """So many rows: the first ones, and where they do not suffice the same again."""
    index = torch.arange(n, device=rows.device) % len(rows)
    return rows.index_select(0, index)


def tried(
    name: str,
    calls: Calls,
    device: torch.device,
    batches: Iterable[int],
    repeats: int = REPEATS,
    seconds: float = SECONDS,
) -> Curve:
    """What ``climb`` finds, with random numbers apart; no points, and a warning, if it fails."""
    with torch.random.fork_rng():
        try:
            return climb(calls, device, batches, repeats, seconds)
        except InterruptedRunError:
            raise
        except Exception as error:
            log.warning("speed: no %s: %s", name, error)
            return Curve([], "failed")


def climb(
    calls: Calls, device: torch.device, batches: Iterable[int], repeats: int, seconds: float
) -> Curve:
    """Times at batch sizes that rise, until more rows at once do not pay.

    Sizes up to ``BATCH`` are all taken. It is ``saturated`` where the throughput is less than
    ``GROWTH`` times the best of smaller batches; before that it ends where a call takes longer
    than ``LONGEST`` seconds, or memory does not suffice.
    """
    points: list[Point] = []
    best = 0.0
    for batch in batches:
        if batch > BATCH and points and median(points[-1].times) > LONGEST:
            return Curve(points, "too long")
        try:
            points.append(Point(batch, timed(calls(batch), device, repeats, seconds)))
        except torch.OutOfMemoryError:
            if not points:
                raise
            return Curve(points, "out of memory")
        if batch > BATCH and points[-1].per_second < GROWTH * best:
            return Curve(points, "saturated")
        best = max(best, points[-1].per_second)
    return Curve(points, "largest")


def timed(
    call: Callable[[], object], device: torch.device, repeats: int, seconds: float
) -> list[float]:
    """The seconds of one to ``repeats`` calls, as there is time for, after one to warm up."""
    clock(call, device)
    end = time.perf_counter() + seconds
    times = [clock(call, device)]
    while len(times) < repeats and time.perf_counter() + times[0] < end:
        times.append(clock(call, device))
    return times


def clock(call: Callable[[], object], device: torch.device) -> float:
    """The seconds of one call, until the device has done it."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait until an accelerator has done what it was told; a processor has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def described(name: str, many: str, curve: Curve, batch: int, *, whole: bool) -> Speed:
    """What a record says of a curve: the time of this batch, and if asked for all of it.

    Nothing of one without points.
    """
    found: Speed = {}
    for point in curve.points:
        if point.batch == batch:
            found |= {f"{name}_{key}": value for key, value in statistics(point.times).items()}
    if whole and curve.points:
        found |= {
            f"{many}_per_second": curve.per_second,
            f"{name}_curve": [{"batch": p.batch, **statistics(p.times)} for p in curve.points],
            f"{name}_curve_end": curve.end,
        }
    return found


def statistics(times: list[float]) -> Speed:
    """Median and quartiles in milliseconds of some seconds, and how many they are."""
    low, _, high = quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    return {
        "ms": 1000 * median(times),
        "ms_quartiles": [1000 * low, 1000 * high],
        "ms_repeats": len(times),
    }
