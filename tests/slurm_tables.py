"""Profiles of the tests' cluster, and a stand-in for Python where training is not the point."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner, Result
from cluster import PATIENCE, Cluster, until

from nfbench.cli import main

PROFILE = {"partition": "main", "time": "00:10:00", "mem": "100M"}
# Writes its words down, and does what the file `act` beside it says.
FAKE = """\
#!/usr/bin/env bash
here={here}
printf '%s\\n' "$@" > "$here/words-$$" && mv "$here/words-$$" "$here/told-$$-$RANDOM"
source "$here/act"
"""
Nfbench = Callable[..., Result]


def profile(root: Path, name: str = "mine", **keys: Any) -> str:
    """Write a profile; its file."""
    file = root / "slurm" / f"{name}.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump(PROFILE | keys, sort_keys=False))
    return str(file)


def fake(root: Path, act: str) -> str:
    """Write the stand-in for Python; its path."""
    folder = root / "fake"
    folder.mkdir(exist_ok=True)
    (folder / "act").write_text(act)
    path = folder / "python"
    path.write_text(FAKE.format(here=shlex.quote(str(folder))))
    path.chmod(0o755)
    return str(path)


def told(root: Path) -> list[list[str]]:
    """The words that the stand-ins were called with so far."""
    return sorted(file.read_text().splitlines() for file in (root / "fake").glob("told-*"))


def nfbench(*words: object) -> Result:
    """`nfbench ...` in this process."""
    return CliRunner().invoke(main, list(map(str, words)))


def ended(cluster: Cluster, seconds: float = PATIENCE) -> None:
    """Wait until nothing waits or runs."""
    until(lambda: not cluster.queue(), seconds, "an empty queue")
