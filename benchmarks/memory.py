"""Memory of a training step of Glow against its depth, activations kept or computed again."""

import ctypes
import multiprocessing
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from benchmarks.glow import BATCH, CHANNELS, HIDDEN, LEVELS, SIDE, nfbench_glow
from benchmarks.peers import Candidate
from benchmarks.timing import Pace, command, interleave, spread, verdict
from benchmarks.train import training

DEPTHS = (2, 4, 8, 16, 32)
MIB = 2**20
GROWTH = 1.05  # what is kept at the largest depth over that at the smallest, if reversible
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # of Linux


@dataclass(frozen=True)
class Depths:
    """What a training step takes at each depth: kept, then computed again.

    Args:
        title: the workload.
        depths: steps of a level.
        saved: bytes that autograd keeps between the forward and the backward pass.
        peaks: bytes by which the process grew during a step, at most; none where unknown.
        seconds: of a step, one for each round.
    """

    title: str
    depths: Sequence[int]
    saved: Sequence[tuple[int, int]]
    peaks: Sequence[tuple[int | None, int | None]]
    seconds: Sequence[tuple[Sequence[float], Sequence[float]]]

    def ratios(self, index: int) -> list[float]:
        """The time computing again takes over that of keeping, round by round."""
        kept, again = self.seconds[index]
        return [slow / fast for fast, slow in zip(kept, again, strict=True)]

    def table(self) -> str:
        """A row for each depth, in Markdown."""
        header = ["K", "saved, MiB", "reversible", "peak growth, MiB", "reversible", "time ratio"]
        rows = [
            [
                str(depth),
                *(f"{each / MIB:.2f}" for each in self.saved[index]),
                *(
                    "unknown" if each is None else f"{each / MIB:.0f}"
                    for each in self.peaks[index]
                ),
                spread(self.ratios(index)),
            ]
            for index, depth in enumerate(self.depths)
        ]
        table = tabulate(rows, header, tablefmt="github", disable_numparse=True)
        return "\n".join([f"## {self.title}", "", table, "", self.target()])

    def target(self) -> str:
        """Whether what is kept stays the same."""
        growth = self.saved[-1][1] / self.saved[0][1]
        text = (
            f"what a reversible step keeps at K = {self.depths[-1]} is at most {GROWTH} of that "
            f"at K = {self.depths[0]} ({growth:.2f})"
        )
        return verdict(text, growth <= GROWTH)

    def record(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "title": self.title,
            "target": self.target(),
            "depths": {
                str(depth): {
                    "saved_bytes": dict(
                        zip(("kept", "reversible"), self.saved[index], strict=True)
                    ),
                    "peak_bytes": dict(
                        zip(("kept", "reversible"), self.peaks[index], strict=True)
                    ),
                    "median_ratio": round(statistics.median(self.ratios(index)), 4),
                    "seconds": [[float(f"{s:.5g}") for s in way] for way in self.seconds[index]],
                }
                for index, depth in enumerate(self.depths)
            },
        }


def flow_of(depth: int, reversible: bool) -> Candidate:
    """The flow with its actnorm set."""
    flow = nfbench_glow(steps=depth, reversible=reversible)
    with torch.no_grad():
        flow.log_prob(images())
    return flow


def images(n: int = BATCH) -> Tensor:
    """Noise in the range of images."""
    return torch.rand(n, CHANNELS, SIDE, SIDE) - 0.5


def saved_bytes(flow: Candidate) -> int:
    """Bytes of the distinct storages that autograd keeps, parameters aside."""
    own = {each.untyped_storage().data_ptr() for each in flow.module.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = -flow.log_prob(images()).mean()
    del loss
    return sum(kept.values())


def peak_growth(depth: int, reversible: bool) -> int | None:
    """Bytes by which another process grows during a step, above what it holds before; if known."""
    if not RESET.exists():
        return None
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(growth_here, (depth, reversible))


def growth_here(depth: int, reversible: bool) -> int:
    """The high-water mark of a step less the memory before it, in this process.

    A step of a single image comes first, so that the optimizer's state and the libraries' own
    memory are there before; what that step has freed is given back, and the mark set anew.
    """
    torch.set_num_threads(1)
    flow, state = flow_of(depth, reversible), {"batch": images(1)}
    step = training(flow, lambda: state["batch"], flat=True)
    step()
    state["batch"] = images()
    ctypes.CDLL(None).malloc_trim(0)
    RESET.write_text("5")
    before = memory("VmRSS")
    step()
    return memory("VmHWM") - before


def memory(name: str) -> int:
    """A line of this process's status, in bytes."""
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
    return 1024 * int(lines[name].split()[0])


def compare(quick: bool) -> list[Depths]:
    """All depths."""
    depths = DEPTHS[:2] if quick else DEPTHS
    ways = (False, True)
    saved, peaks, seconds = [], [], []
    for depth in depths:
        flows = [flow_of(depth, way) for way in ways]
        saved.append(tuple(saved_bytes(flow) for flow in flows))
        peaks.append(tuple(peak_growth(depth, way) for way in ways))
        steps = {
            str(way): training(flow, images, flat=True)
            for way, flow in zip(ways, flows, strict=True)
        }
        seconds.append(tuple(interleave(steps, Pace.of(quick, 7)).values()))
    title = (
        f"Glow (L = {LEVELS}, {HIDDEN} channels), {CHANNELS} x {SIDE} x {SIDE}: "
        f"a training step, batch {BATCH}"
    )
    return [Depths(title, depths, saved, peaks, seconds)]


if __name__ == "__main__":
    command("memory", "Memory of a reversible Glow", compare)()
