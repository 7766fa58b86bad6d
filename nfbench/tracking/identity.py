"""What a run is called in W&B: its path, so that seeds group and a resumed run is one run.

Imports neither torch nor wandb.
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nfbench.config import Experiment
from nfbench.record import Named, run_dir

PROJECT = "nfbench"
MAX_ID, MAX_GROUP, MAX_TAG = 64, 128, 64  # characters that W&B takes
DIGEST, HASH = 8, 6  # digits: of what is cut off, of the settings


@dataclass(frozen=True)
class Identity:
    """How W&B files a run; ``config`` is nested, of plain values."""

    id: str
    name: str
    group: str
    tags: tuple[str, ...]
    config: dict[str, Any]
    project: str = PROJECT
    job_type: str = "train"


def run_id(named: Named, settings: str) -> str:
    """TABLE-ROW-CELL-SEED, the hash of overrides if there are any, and a part of the settings'.

    At most 64 characters; what is run of other settings is another run.
    """
    *_, table, row, cell, folder = run_dir(named, Path()).parts
    end = f"-{settings[:HASH]}"
    return shortened(f"{table}-{row}-{cell}-{folder}", MAX_ID - len(end)) + end


def shortened(text: str, longest: int) -> str:
    """The text, or where it is longer its beginning and a hash of the whole."""
    if len(text) <= longest:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:DIGEST]
    return f"{text[: longest - DIGEST - 1]}-{digest}"


def identify(experiment: Experiment, version: str | None) -> Identity:
    """The identity of a run made by a version of the sources, as `git describe` has it."""
    e = experiment
    group = "/".join([e.table, e.row, e.cell])
    if e.overrides:  # its runs are no seeds of the cell
        group += f" {' '.join(e.overrides)}"
    tags = [e.table, e.row, e.cell, f"seed-{e.seed}", version, "reduced" if e.reduced else None]
    names = ("table", "row", "cell", "seed", "title", "reduced")
    config = {name: getattr(e, name) for name in names} | {
        "config_hash": e.hash,
        "version": version,
        "overrides": list(e.overrides),
        "published": asdict(e.reported) if e.reported else None,
        **e.config(),
    }
    return Identity(
        id=run_id(e, e.hash),
        name=run_dir(e, Path()).relative_to("runs").as_posix(),
        group=shortened(group, MAX_GROUP),
        tags=tuple(dict.fromkeys(shortened(tag, MAX_TAG) for tag in tags if tag)),
        config=config,
    )
