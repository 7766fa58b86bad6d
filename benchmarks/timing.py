"""Interleaved timing by process CPU time, and what every benchmark leaves: a table, a record."""

import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import torch
from tabulate import tabulate

from nfbench import provenance

RESULTS = Path(__file__).parent / "results"
UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6}  # from seconds
Clock = Callable[[Callable[[], object], int], float]  # call, repeats -> seconds for one call


@dataclass(frozen=True)
class Pace:
    """How long a comparison is measured: rounds of one burst for each candidate."""

    rounds: int
    burst: float  # seconds of CPU in one burst; a call that takes longer is made once

    @classmethod
    def of(cls, quick: bool, rounds: int = 25, burst: float = 0.1) -> "Pace":
        """The full pace, or that of a smoke test."""
        return cls(2, 0.02) if quick else cls(rounds, burst)


@dataclass(frozen=True)
class Comparison:
    """What was timed side by side: seconds per unit of work, one for each round.

    Args:
        title: the workload.
        reference: the candidate the ratios are to, in the same round.
        unit: of the times shown: s, ms or us.
        seconds: of each candidate.
        remarks: on a candidate: what it is, where it cannot match.
        target: what is aimed at, and whether it was met.
    """

    title: str
    reference: str
    unit: str
    seconds: Mapping[str, Sequence[float]]
    remarks: Mapping[str, str] = field(default_factory=dict)
    target: str | None = None

    def ratios(self, candidate: str, reference: str | None = None) -> list[float]:
        """The candidate's time over the reference's, round by round."""
        pairs = zip(
            self.seconds[candidate], self.seconds[reference or self.reference], strict=True
        )
        return [ours / theirs for ours, theirs in pairs]

    def ratio(self, candidate: str, reference: str | None = None) -> float:
        """The median of the ratios."""
        return statistics.median(self.ratios(candidate, reference))

    def rows(self) -> list[list[str]]:
        """The table: one row for each candidate."""
        scale = UNITS[self.unit]
        return [
            [
                name,
                spread([scale * each for each in seconds]),
                spread(self.ratios(name)),
                self.remarks.get(name, ""),
            ]
            for name, seconds in self.seconds.items()
        ]

    def table(self) -> str:
        """The comparison in Markdown."""
        header = ["", f"{self.unit} (quartiles)", f"ratio to {self.reference}", "remark"]
        lines = [
            f"## {self.title}",
            "",
            tabulate(self.rows(), header, tablefmt="github", disable_numparse=True),
        ]
        return "\n".join([*lines, *([] if self.target is None else ["", self.target])])

    def record(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "title": self.title,
            "reference": self.reference,
            "target": self.target,
            "candidates": {
                name: {
                    "seconds": [float(f"{each:.5g}") for each in seconds],
                    "median_seconds": float(f"{statistics.median(seconds):.5g}"),
                    "median_ratio": round(self.ratio(name), 4),
                    "remark": self.remarks.get(name),
                }
                for name, seconds in self.seconds.items()
            },
        }


def interleave(
    calls: Mapping[str, Callable[[], object]],
    pace: Pace,
    *,
    work: int = 1,
    device: str = "cpu",
) -> dict[str, list[float]]:
    """Seconds of each call, round after round: a burst of A, one of B, one of C, A again.

    They are divided by ``work``, the units in one call. What else the machine does then falls on
    all of them alike, and the ratios within a round stay.
    """
    clock = CLOCKS[device]
    repeats = {name: calibrate(call, pace.burst, clock) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(pace.rounds):
        for name, call in calls.items():
            gc.collect()
            seconds[name].append(clock(call, repeats[name]) / work)
    return seconds


def calibrate(call: Callable[[], object], burst: float, clock: Clock) -> int:
    """How many calls fill a burst, found by trying one, then a burst: the warm-up."""
    repeats = 1
    for _ in range(3):
        repeats = max(1, round(burst / max(clock(call, repeats), 1e-7)))
        if repeats == 1:
            break
    return repeats


def cpu_seconds(call: Callable[[], object], repeats: int) -> float:
    """CPU seconds of this process, all its threads, for one call."""
    start = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - start) / repeats


def wall_seconds(call: Callable[[], object], repeats: int) -> float:
    """Seconds for one call, until the GPU has done what it was given."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


CLOCKS: dict[str, Clock] = {"cpu": cpu_seconds, "cuda": wall_seconds}


def spread(values: Sequence[float]) -> str:
    """Median and quartiles, three digits each."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{digits(middle)} ({digits(low)} - {digits(high)})"


def digits(value: float) -> str:
    """Three digits, and no exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def verdict(text: str, met: bool) -> str:
    """The line under a table that says whether its target was met."""
    return f"Target: {text}: **{'met' if met else 'missed'}**."


def command(name: str, title: str, compare: Callable[[bool], list[Comparison]]) -> click.Command:
    """The command line of a benchmark: measure, print, and write unless it is a smoke test."""

    @click.command(help=title)
    @click.option(
        "--quick", is_flag=True, help="A smoke test: short bursts; prints, writes nothing."
    )
    def run(quick: bool) -> None:
        publish(name, title, lambda: compare(quick), quick=quick)

    return run


def publish(
    name: str,
    title: str,
    compare: Callable[[], list[Comparison]],
    *,
    quick: bool,
    device: str = "cpu",
) -> None:
    """Measure and print; write unless it is a smoke test."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    started = time.monotonic()
    comparisons = compare()
    text = "\n\n".join([f"# {title}", *(comparison.table() for comparison in comparisons)])
    click.echo(text)
    if not quick:
        about = machine(device) | {"seconds": round(time.monotonic() - started)}
        write(name if device == "cpu" else f"{name}_{device}", text, comparisons, about)


def write(name: str, text: str, comparisons: Sequence[Comparison], about: dict[str, Any]) -> None:
    """The benchmark's Markdown table and JSON record."""
    RESULTS.mkdir(exist_ok=True)
    versions = ", ".join(f"{package} {number}" for package, number in about["versions"].items())
    footer = (
        f"{about['clock']} of one process on {about['threads']} thread; median (quartiles) over "
        f"interleaved bursts; ratios within a round. {about['machine']}, {about['cores']} cores, "
        f"load {about['load']}; {versions}; "
        f"commit {about['git']}{' with changes' if about['dirty'] else ''}; {about['date']}."
    )
    (RESULTS / f"{name}.md").write_text(f"{text}\n\n{footer}\n")
    record = {
        "name": name,
        **about,
        "comparisons": [comparison.record() for comparison in comparisons],
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")


def machine(device: str) -> dict[str, Any]:
    """Where and with what it was measured."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": provenance.device_name(torch.device(device)),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "threads": torch.get_num_threads(),
        "clock": "CPU time" if device == "cpu" else "wall-clock time",
        "versions": provenance.versions() | peers(),
    } | provenance.commit(Path(__file__).parents[1])


def peers() -> dict[str, str]:
    """Versions of the peers that were imported."""
    packages = {"nflows": "nflows", "normflows": "normflows", "zuko": "zuko", "pyro": "pyro-ppl"}
    return {
        package: version(package) for module, package in packages.items() if module in sys.modules
    }
