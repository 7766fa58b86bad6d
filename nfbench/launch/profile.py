"""Profiles: what a cluster wants to be asked for, from slurm/<name>.yaml. Imports no torch."""

import re
import shlex
import sys
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from nfbench.errors import UsageError
from nfbench.record import find_root
from nfbench.settings import Level, fill, hint, read_yaml

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
TIME = re.compile(r"\d+-([01]?\d|2[0-3]):[0-5]\d:[0-5]\d|\d+:[0-5]\d:[0-5]\d")
# What an `#SBATCH` line may hold needs no quotes: no space, quote, # or control character.
PLAIN = r"[\w.,:;+/@%=~-]+"
FORMS = {
    "partition": (re.compile(PLAIN), "names of partitions, joined by commas"),
    "account": (re.compile(PLAIN), "a name"),
    "qos": (re.compile(PLAIN), "a name"),
    "constraint": (re.compile(r"[\w.,:;+/@%=~&|*()\[\]-]+"), "features, as in 'a100&nvlink'"),
    "gpu_type": (re.compile(r"[\w.-]+"), "a type, as in 'a100'"),
    "mem": (re.compile(r"\d+[KMGT]"), "a number and its unit, as in '8G'"),
    "time": (TIME, "a quoted 'HH:MM:SS' or 'D-HH:MM:SS'"),
}
OPTION = re.compile(r"--([a-z][a-z-]*)(=[\w.,:;+/@%=~&|*()\[\]-]+)?")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SECRET = re.compile(r"(^|_)(api_?key|key|token|secret|password)(_|$)", re.IGNORECASE)
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
RANGES = {
    "gpus": (0, 1024),
    "cpus": (1, 4096),
    "nodes": (1, 4096),
    "tasks_per_node": (1, 1024),
    "throttle": (1, 100_000),
    "pack": (1, 1024),
    "signal_seconds": (1, 65535),
    "max_restarts": (0, 10_000),
}
# Options that a profile has a key for, or that the submitter gives.
OURS = (
    "partition account qos constraint gpus gpus-per-node gpus-per-task nodes ntasks"
    " ntasks-per-node cpus-per-task mem mem-per-cpu mem-per-gpu time signal requeue no-requeue"
    " open-mode array job-name output error input export chdir dependency wrap wait test-only"
    " parsable hold clusters"
)


@dataclass(frozen=True)
class Profile:
    """What a job asks of a cluster, and how a cell is started there.

    `gpus` and `mem` are of a node, `cpus` of a process; `pack` cells run side by side in one job
    and share its GPUs; `throttle` is how many jobs of an array run at once; `signal_seconds`
    before the limit a cell is asked to save and stop, to go on up to `max_restarts` times.
    `setup` are shell lines that come first, `container` words that stand before a command;
    `python` is by default the interpreter that submits, in a container the first one there.
    `cells` are keys that differ for some: pattern of TABLE/ROW/CELL -> key -> value.
    """

    name: str
    time: str
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus: int = 0
    gpu_type: str | None = None
    cpus: int = 1
    mem: str | None = None
    nodes: int = 1
    tasks_per_node: int = 1
    throttle: int | None = None
    pack: int = 1
    signal_seconds: int = 120
    max_restarts: int = 10
    setup: list[str] = field(default_factory=list)
    container: str | None = None
    python: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    sbatch: list[str] = field(default_factory=list)
    cells: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> int:
        """The time limit in seconds."""
        return seconds(self.time)

    @property
    def cpus_per_task(self) -> int:
        """The CPUs that a task of the job is given: those of all cells packed into it."""
        return self.cpus * self.pack

    @property
    def world_size(self) -> int:
        """The processes of a cell."""
        return self.nodes * self.tasks_per_node

    def of(self, cell: str) -> "Profile":
        """What a cell, TABLE/ROW/CELL/SEED, asks for: by the first pattern that fits it."""
        name = cell.rpartition("/")[0]
        fitting = (keys for form, keys in self.cells.items() if fnmatchcase(name, form))
        return replace(self, cells={}, **next(fitting, {}))


KEYS = [f.name for f in fields(Profile) if f.name != "name"]
# What is the same for all cells of a profile.
COMMON = ("name", "setup", "container", "python", "env", "cells")


def profile_names(root: Path | None = None) -> tuple[str, ...]:
    """The profiles in slurm/, sorted."""
    return tuple(sorted(path.stem for path in ((root or find_root()) / "slurm").glob("*.yaml")))


def load_profile(name: str, root: Path | None = None) -> Profile:
    """Reads slurm/<name>.yaml, or a file whose path is given.

    Raises:
        UsageError: no such profile, an unknown key, or a value that it cannot hold.
    """
    root = root or find_root()
    path = Path(name) if name.endswith((".yaml", ".yml")) else root / "slurm" / f"{name}.yaml"
    if not path.is_file():
        known = profile_names(root)
        raise UsageError(f"unknown profile {name!r}{hint(name, known, 'in slurm/')}, or a file")
    level = read_yaml(path, path.parent)
    if not NAME.fullmatch(path.stem):
        raise UsageError(f"{path.name}: expected a name of lower case letters, digits, _ and -")
    level.check(KEYS)
    named = Level(level.where, "", {"name": path.stem})
    profile = Profile(**fill(Profile, named, level))
    check(profile, level)
    cells = {form: differing(form, level, named) for form in profile.cells}
    return replace(profile, cells=cells)


def differing(form: str, level: Level, named: Level) -> dict[str, Any]:
    """The keys of the cells of one pattern, checked together with all others.

    Raises:
        UsageError: a key that all cells share, or a value that the profile cannot hold.
    """
    own = level.section("cells").section(form)
    own.check([key for key in KEYS if key not in COMMON])
    values = fill(Profile, named, level.only(set(KEYS) - {"cells"}), own)
    check(Profile(**values), own)
    return {key: values[key] for key in own.values}


def check(profile: Profile, level: Level) -> None:
    """Checks every value that goes into a script.

    Raises:
        UsageError: a value that a script cannot hold, out of range, or at odds with another.
    """
    for key, (form, wanted) in FORMS.items():
        value = getattr(profile, key)
        if value is not None and not form.fullmatch(value):
            unquoted = " (YAML reads 12:00:00 as a number)" if key == "time" else ""
            raise level.error(key, f"expected {wanted}{unquoted}, got {value!r}")
    for key, (least, largest) in RANGES.items():
        value = getattr(profile, key)
        if value is not None and not least <= value <= largest:
            raise level.error(key, f"expected {least} to {largest}, got {value}")
    if not profile.seconds:
        raise level.error("time", f"expected more than none, got {profile.time!r}")
    check_agreement(profile, level)
    for option in profile.sbatch:
        check_option(option, level)
    for line in [*profile.setup, profile.container or "", profile.python or ""]:
        if CONTROL.search(line):
            message = f"expected single lines, got {line!r}"
            raise level.error("setup, container or python", message)
    for name, value in profile.env.items():
        check_variable(name, value, level.section("env"))
    container_words(profile, level)


def check_agreement(profile: Profile, level: Level) -> None:
    """Checks the keys that limit one another.

    Raises:
        UsageError: cells of many processes packed, fewer GPUs than processes, or a GPU's type and
            no GPU.
    """
    if profile.pack > 1 and profile.world_size > 1:
        message = f"expected 1 for cells of {profile.world_size} processes, got {profile.pack}"
        raise level.error("pack", message)
    if 0 < profile.gpus < profile.tasks_per_node:
        message = f"expected at most gpus, {profile.gpus}, got {profile.tasks_per_node}"
        raise level.error("tasks_per_node", message)
    if profile.gpu_type and not profile.gpus:
        raise level.error("gpu_type", f"expected gpus above 0 with {profile.gpu_type!r}, got 0")


def check_option(option: str, level: Level) -> None:
    """Checks one of the further options.

    Raises:
        UsageError: another form than `--key=value`, or an option that is set elsewhere.
    """
    match = OPTION.fullmatch(option)
    if not match:
        message = f"expected --key=value or --key without spaces and quotes, got {option!r}"
        raise level.error("sbatch", message)
    if match[1] in OURS.split() or (match[1] == "gres" and "gpu" in option):
        message = (
            f"--{match[1]} is set by nfbench or by a key of its own (keys: {', '.join(KEYS)})"
        )
        raise level.error("sbatch", message)


def check_variable(name: str, value: str, level: Level) -> None:
    """Checks one variable of the environment.

    Raises:
        UsageError: no name of a variable, more than one line, or what looks like a secret.
    """
    if not VARIABLE.fullmatch(name):
        raise level.error(name, "expected a variable's name: letters, digits and _")
    if CONTROL.search(value):
        raise level.error(name, f"expected a single line, got {value!r}")
    if SECRET.search(name):
        message = "a secret does not belong in a file that jobs copy; for W&B use `wandb login`"
        raise level.error(name, message)


def container_words(profile: Profile, level: Level) -> list[str]:
    """The words of `container`.

    Raises:
        UsageError: a quote that is not closed.
    """
    try:
        return shlex.split(profile.container or "")
    except ValueError as error:
        message = f"expected the words before a command, got {profile.container!r}: {error}"
        raise level.error("container", message) from error


def seconds(time: str) -> int:
    """'HH:MM:SS' or 'D-HH:MM:SS' in seconds."""
    days, _, clock = time.rpartition("-")
    hours, minutes, rest = map(int, clock.split(":"))
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + rest


def directives(profile: Profile) -> list[str]:
    """The `#SBATCH` lines of a profile; job name, array and output are the submitter's."""
    kind = f"{profile.gpu_type}:" if profile.gpu_type else ""
    options = {
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "nodes": profile.nodes,
        "ntasks-per-node": profile.tasks_per_node,
        "cpus-per-task": profile.cpus_per_task,
        "gres": f"gpu:{kind}{profile.gpus}" if profile.gpus else None,
        "mem": profile.mem,
        "time": profile.time,
        "signal": f"B:USR1@{profile.signal_seconds}",
        "open-mode": "append",
    }
    given = [f"--{key}={value}" for key, value in options.items() if value is not None]
    return [f"#SBATCH {option}" for option in [*given, "--requeue", *profile.sbatch]]


def preamble(profile: Profile) -> list[str]:
    """The shell lines that come before a job's commands: variables, then the setup lines."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in profile.env.items()]
    # srun no longer takes over the CPUs of sbatch's --cpus-per-task by itself since SLURM 22.05.
    own = f"export SRUN_CPUS_PER_TASK={profile.cpus_per_task}"
    return [own, *exports, *profile.setup]


def inside(profile: Profile, *arguments: str) -> str:
    """`python ...` as one shell line, in the profile's container."""
    container = shlex.split(profile.container or "")
    python = profile.python or ("python" if container else sys.executable)
    return shlex.join([*container, python, *arguments])
