"""How long a trained model takes for densities and for samples."""

import logging
import time
from collections.abc import Callable
from statistics import median, quantiles

import torch
from torch import Tensor

from nfbench.density import DensityModel
from nfbench.signals import InterruptedRunError

log = logging.getLogger("nfbench")
BATCH, REPEATS = 64, 20
SECONDS = 2.0  # for each of the two

Speed = dict[str, object]


@torch.no_grad()
def measure(
    model: DensityModel,
    rows: Tensor,
    *,
    batch: int = BATCH,
    repeats: int = REPEATS,
    seconds: float = SECONDS,
) -> Speed:
    """Milliseconds for densities of ``batch`` rows of data (N, *event), and for as many samples.

    ``log_prob_ms`` and ``sample_ms`` are medians, ``..._quartiles`` the first and third quartile
    of ``..._repeats`` calls in evaluation mode, after one that does not count; fewer than
    ``repeats`` where more would take longer than ``seconds``, and that first one alone where it
    does. Random numbers of others stay as they are. What fails is left out, with a warning: no
    time is worth a run.
    """
    rows = rows[:batch]
    training = model.training
    model.eval()
    found: Speed = {
        "batch": len(rows),
        "device": rows.device.type,
        "threads": torch.get_num_threads(),
    }
    calls: dict[str, Callable[[], object]] = {
        "log_prob": lambda: model.log_prob(rows),
        "sample": lambda: model.sample(len(rows)),
    }
    with torch.random.fork_rng():
        for name, call in calls.items():
            try:
                times = timed(call, rows.device, repeats, seconds)
            except InterruptedRunError:
                raise
            except Exception as error:
                log.warning("speed: no %s: %s", name, error)
            else:
                found |= statistics(name, times)
    model.train(training)
    return found


def timed(
    call: Callable[[], object], device: torch.device, repeats: int, seconds: float
) -> list[float]:
    """The seconds of up to ``repeats`` calls, not of the first unless it takes all the time."""
    end = time.perf_counter() + seconds
    first = clock(call, device)
    times: list[float] = []
    while len(times) < repeats and time.perf_counter() + first < end:
        times.append(clock(call, device))
    return times or [first]


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


def statistics(name: str, times: list[float]) -> Speed:
    """Median and quartiles in milliseconds of some seconds, and how many they are."""
    low, _, high = quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    return {
        f"{name}_ms": 1000 * median(times),
        f"{name}_ms_quartiles": [1000 * low, 1000 * high],
        f"{name}_ms_repeats": len(times),
    }
