"""Where a result comes from: commit, versions, machine, cost."""

import gc
import platform
import resource
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from nfbench import __version__
from nfbench.config import Experiment, machine_words
from nfbench.module import DensityModule
from nfbench.parts import Part, summary
from nfbench.world import world

PACKAGES = ("torch", "pytorch-lightning", "numpy")
# What a result depends on; a rewritten table or note does not make it dirty.
SOURCES = ("nfbench", "experiments", "pyproject.toml")


def commit(root: Path) -> dict[str, Any]:
    """The git commit at ``root`` and whether its sources differ from it; nulls outside git."""
    hash_ = git(root, "rev-parse", "--short=12", "HEAD")
    changes = git(root, "status", "--porcelain", "--", *SOURCES)
    return {"git": hash_, "dirty": None if changes is None else bool(changes)}


def git(root: Path, *arguments: str) -> str | None:
    """What git prints, or None if it cannot answer."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Versions of python and of the packages that numbers depend on."""
    ours = {"nfbench": __version__, "python": platform.python_version()}
    return ours | {name: version(name) for name in PACKAGES}


def device_name(device: torch.device) -> str:
    """The accelerator's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"CPU {models[0]}" if models else f"CPU {platform.machine()}"


def precision(experiment: Experiment) -> str:
    """In what a run trains: the flow always in float32, its nets or their products in less."""
    nets = experiment.flow.get("net_dtype", "float32")
    products = experiment.training.matmul_precision
    less = [] if nets == "float32" else [f"nets in {nets}"]
    less += [] if products == "highest" else [f"matmul precision {products}"]
    return ", ".join(["float32", *less])


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory held: on the accelerator, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_memory(device: torch.device) -> None:
    """Count the most memory held from here on, on the accelerator; a process cannot."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def begin(root: Path) -> Part:
    """By which sources a process makes its part of a run, and when it began."""
    return {**commit(root), "started": now()}


def means(module: DensityModule) -> Part:
    """With and on what a process makes its part of a run."""
    return {
        "versions": versions(),
        "device": device_name(module.device),
        "world_size": world().size,
        "threads": torch.get_num_threads(),
        "compiled": module.compiled,
    }


def describe(
    experiment: Experiment, module: DensityModule, parts: Sequence[Part], seconds: float
) -> dict[str, Any]:
    """The section of a record on how it was made, in one part or several."""
    words = machine_words(compile=module.compiled, shard=module.sharded)
    return {
        **summary(parts),
        "precision": precision(experiment),
        "seconds": round(seconds, 1),
        "peak_memory_bytes": peak_memory_bytes(module.device),
        "command": shlex.join([*experiment.command, *words]),
        "finished": now(),
    }


def now() -> str:
    """The time, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
