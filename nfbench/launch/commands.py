"""SLURM's commands: called with a limit of time, their errors on one line. Imports no torch."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence

from nfbench.errors import UsageError

# A controller that is down is given up by SLURM itself after 9 s.
SECONDS = 15.0
# What a shell may have of a run of its own, and a job must not inherit; and what changes silently
# what SLURM's commands do: SBATCH_* goes before a script's own options, SQUEUE_* hides jobs. Of
# SLURM's only those stay that say which cluster it is.
STRAY = re.compile(
    r"MASTER_(ADDR|PORT)|((LOCAL|NODE|GROUP)_)?RANK|(LOCAL_)?WORLD_SIZE"
    r"|SLURM_(?!(CONF|CLUSTERS)$)\w+|(SBATCH|SQUEUE|SCANCEL)_\w+"
)
# Of what `sbatch --parsable` prints; a site may greet before.
JOB = re.compile(r"^(\d+)(;\S*)?$", re.MULTILINE)
SETTING = re.compile(r"^(\w+)\s+= (.*?)\s*$", re.MULTILINE)
MOST_TASKS = re.compile(r"\bmax_array_tasks=(\d+)")
FIELD = re.compile(r"([\w/:-]+)=(\S*)")


class CommandError(UsageError):
    """A command of SLURM that is not there, gives no answer, or refuses."""


def missing(names: Sequence[str]) -> list[str]:
    """Those of the commands that are not there."""
    return [name for name in names if not shutil.which(name)]


def environment() -> dict[str, str]:
    """The variables of this process without those that SLURM or a launcher gives or obeys."""
    return {name: value for name, value in os.environ.items() if not STRAY.fullmatch(name)}


def call(*words: str, text: str = "", seconds: float = SECONDS) -> tuple[str, str]:
    """What a command prints: output and errors.

    Raises:
        CommandError: it is not there, takes too long, or fails; with what it said, on one line.
    """
    try:
        done = subprocess.run(
            words,
            input=text,
            capture_output=True,
            text=True,
            timeout=seconds,
            env=environment(),
            errors="replace",
        )
    except FileNotFoundError as error:
        raise CommandError(f"no command {words[0]} here; run this on a login node") from error
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{words[0]}: no answer in {seconds:g} s") from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
        raise CommandError(said if said.startswith(words[0]) else f"{words[0]}: {said}")
    return done.stdout, done.stderr


def job_id(*words: str) -> str:
    """Send a script by sbatch; the job's id.

    Raises:
        CommandError: as `call`, or it tells no id.
    """
    output, _ = call("sbatch", "--parsable", *words)
    found = JOB.search(output)
    if not found:
        raise CommandError(f"sbatch: expected the id of a job, got {output.strip()!r}")
    return found[1]


def records(*words: str) -> list[dict[str, str]]:
    """What `scontrol show ... -o` prints, hidden partitions too: the fields of each line.

    Raises:
        CommandError: as `call`.
    """
    output, _ = call("scontrol", "--all", "show", "-o", *words)
    return [dict(FIELD.findall(line)) for line in output.splitlines() if "=" in line]


def config() -> dict[str, str]:
    """The cluster's configuration.

    Raises:
        CommandError: as `call`.
    """
    output, _ = call("scontrol", "show", "config")
    return dict(SETTING.findall(output))


def most_tasks() -> int:
    """How many tasks an array may have here.

    Raises:
        CommandError: as `call`.
    """
    settings = config()
    limits = MOST_TASKS.findall(settings["SchedulerParameters"])
    return min(map(int, [settings["MaxArraySize"], *limits]))
