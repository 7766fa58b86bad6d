"""Submissions: what an array of SLURM was given, in runs/slurm/<name>/<number>/. Imports no torch.

A folder holds one array: manifest.json, job.sbatch, commands.txt with a line for each cell,
environment.txt, and what its tasks print. The array has the folder as its working directory, by
which it is found in the queue, whether or not its submission ended well.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nfbench.errors import UsageError

MANIFEST, COMMANDS, SCRIPT = "manifest.json", "commands.txt", "job.sbatch"
RENDER, ENVIRONMENT = "render.sbatch", "environment.txt"
KEYS = ("profile", "pack", "cells")


@dataclass(frozen=True)
class Submission:
    """An array: which cell is which line of commands.txt, and how many lines a task takes.

    A cell is named by its run's folder, from runs/ on; a process of a sweep sweeps/NAME/I.
    """

    folder: Path
    profile: str
    pack: int
    cells: tuple[str, ...]

    @property
    def n_tasks(self) -> int:
        """The tasks of the array."""
        return -(-len(self.cells) // self.pack)

    def task(self, index: int) -> tuple[str, ...]:
        """The cells of a task."""
        return self.cells[index * self.pack : (index + 1) * self.pack]

    def output(self, cell: str) -> Path:
        """What the task with this cell has printed."""
        return self.folder / f"{self.line[cell] // self.pack}.out"

    @cached_property
    def line(self) -> dict[str, int]:
        """Which line of commands.txt each cell is, from 0 on."""
        return {cell: i for i, cell in enumerate(self.cells)}

    def text(self) -> str:
        """The manifest."""
        values = {"profile": self.profile, "pack": self.pack, "cells": list(self.cells)}
        return json.dumps(values, indent=1) + "\n"


def home(root: Path, name: str) -> Path:
    """The folder of all submissions of a table, or of a sweep as sweeps/NAME."""
    return root / "runs" / "slurm" / name


def numbers(root: Path, name: str) -> dict[int, Path]:
    """The folders of submissions by their number, oldest first; 0001-old is none."""
    found = {int(f.name): f for f in home(root, name).glob("[0-9]*") if f.name.isdecimal()}
    return dict(sorted(found.items()))


def following(root: Path, name: str) -> Path:
    """The folder of the next submission: 0001, 0002, ..."""
    return home(root, name) / f"{max(numbers(root, name), default=0) + 1:04}"


def submitted_names(root: Path) -> list[str]:
    """The tables, and sweeps as sweeps/NAME, that are still there and have submissions."""
    above, tables, sweeps = root / "runs" / "slurm", root / "experiments", "sweeps"
    files = [*above.glob(f"*/*/{MANIFEST}"), *above.glob(f"{sweeps}/*/*/{MANIFEST}")]
    names = {file.parent.parent.relative_to(above) for file in files}
    known = [n for n in names if n.parent.name == sweeps or (tables / n / "table.yaml").exists()]
    return sorted(name.as_posix() for name in known)


def submissions(root: Path, name: str) -> list[Submission]:
    """All submissions of a table or a sweep, oldest first.

    Raises:
        UsageError: a manifest that is none.
    """
    files = [folder / MANIFEST for folder in numbers(root, name).values()]
    return [read(file) for file in files if file.exists()]


def read(path: Path) -> Submission:
    """Reads a manifest.

    Raises:
        UsageError: not JSON, or other keys.
    """
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        profile, pack, cells = (values[key] for key in KEYS)
        return Submission(path.parent, str(profile), int(pack), tuple(map(str, cells)))
    except (OSError, ValueError, TypeError, KeyError) as error:
        message = f"expected a manifest with {', '.join(KEYS)}, got {type(error).__name__} {error}"
        raise UsageError(f"{path}: {message}; move its folder away") from error


def latest(submissions: Sequence[Submission]) -> dict[str, Submission]:
    """Each cell's last submission."""
    return {cell: each for each in submissions for cell in each.cells}
