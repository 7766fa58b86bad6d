"""Commands as arrays of SLURM: written under runs/slurm/, sent, and left to it. Imports no torch.

What a folder holds is whole before the array is sent, and an array is known in the queue by its
folder: whatever is stopped in between, nothing is sent twice and nothing is forgotten.
"""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from filelock import FileLock, Timeout

from nfbench.errors import UsageError
from nfbench.record import write_atomic

from .commands import CommandError, call, environment, job_id
from .manifest import (
    COMMANDS,
    ENVIRONMENT,
    MANIFEST,
    RENDER,
    SCRIPT,
    Submission,
    following,
    home,
)
from .profile import SECRET, Profile
from .script import job_script, render_script

LOCK_SECONDS = 60.0
# Variables whose values tell what a job ran with; of the others the names alone are kept.
TOLD = re.compile(
    r"(NFBENCH|PYTHON|LD_LIBRARY|VIRTUAL_ENV|CONDA|OMP|CUDA|SLURM|TORCH|WANDB)\w*|PATH"
)


@dataclass(frozen=True)
class Sent:
    """The ids of what was sent: the arrays with their submissions, and the job after them."""

    arrays: list[tuple[str, Submission]]
    after: str | None


@dataclass(frozen=True)
class Array:
    """One array that would be sent: what it asks for, its script, and its cells' commands."""

    request: Profile
    submission: Submission
    script: str
    commands: str

    def texts(self) -> Iterator[tuple[str, str]]:
        """Every file with its text."""
        folder = self.submission.folder
        yield f"{folder}/{SCRIPT}", self.script
        yield f"{folder}/{COMMANDS}", self.commands
        yield f"{folder}/{MANIFEST}", self.submission.text()
        yield f"{folder}/{ENVIRONMENT}", told_environment()


@dataclass(frozen=True)
class Draft:
    """What would be sent: arrays, and the script after them."""

    arrays: list[Array]
    after: str | None

    def texts(self) -> Iterator[tuple[str, str]]:
        """Every file with its text."""
        for array in self.arrays:
            yield from array.texts()
        if self.after:
            yield f"{self.arrays[-1].submission.folder}/{RENDER}", self.after


@contextmanager
def submitting(root: Path, name: str) -> Iterator[None]:
    """One at a time submits a table or a sweep; what cannot be written is one clear line.

    Raises:
        UsageError: another process submits it, or runs/ cannot be written.
    """
    folder = home(root, name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "submit.lock", timeout=LOCK_SECONDS):
            yield
    except Timeout:
        raise UsageError(f"{name}: another process is submitting it; see {folder}") from None
    except OSError as error:
        message = f"cannot write {error.filename or folder}: {error.strerror or error}"
        raise UsageError(f"{message}; what is not in the queue was not submitted") from error


def draft(
    root: Path,
    name: str,
    cells: Mapping[str, Sequence[str]],
    profile: Profile,
    *,
    most: int,
    after: Sequence[Sequence[str]] = (),
) -> Draft:
    """What would be sent: cells with the words of their commands, in arrays of `most` tasks each,
    one array or more for each distinct request.

    `after` are the words of commands that follow once all have ended, however they did.
    """
    number, data, title = following(root, name), data_folder(profile), name.replace("/", "-")
    arrays: list[Array] = []
    for request, names in requests(profile, cells):
        for chosen in batched(names, most * request.pack):
            folder = number.with_name(f"{int(number.name) + len(arrays):04}")
            submission = Submission(folder, profile.name, request.pack, chosen)
            script = job_script(request, title, submission.n_tasks, folder, root, data)
            lines = "".join(f"{shlex.join(cells[cell])}\n" for cell in chosen)
            arrays.append(Array(request, submission, script, lines))
    return Draft(arrays, render_script(profile, title, after, root, data) if after else None)


def requests(profile: Profile, cells: Iterable[str]) -> list[tuple[Profile, list[str]]]:
    """Each distinct request with the cells that make it, in their order."""
    found: list[tuple[Profile, list[str]]] = []
    for cell in cells:
        wanted = profile.of(cell)
        same = next((names for request, names in found if request == wanted), None)
        if same is None:
            found.append((wanted, [cell]))
        else:
            same.append(cell)
    return found


def batched(names: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    """The names in groups of a size, the last one as large as what is left."""
    return (tuple(names[start : start + size]) for start in range(0, len(names), size))


def send(plan: Draft) -> Sent:
    """Have SLURM look at a draft, write it down, and send it.

    Raises:
        CommandError: SLURM refuses, or does not answer; says what of it was sent.
        OSError: a file cannot be written; nothing of its array was sent.
    """
    firsts = [next(group).script for _, group in groupby(plan.arrays, attrgetter("request"))]
    for script in [*firsts, *([plan.after] if plan.after else [])]:
        call("sbatch", "--test-only", text=script)
    for path, text in plan.texts():
        write_atomic(Path(path), text)
    arrays: list[tuple[str, Submission]] = []
    for request, group in groupby(plan.arrays, attrgetter("request")):
        before: list[str] = []
        for each in group:
            try:
                job = sbatch(each.submission.folder, SCRIPT, "%a.out", before)
            except CommandError as error:
                raise CommandError(partly(plan, arrays, each.submission, error)) from error
            arrays.append((job, each.submission))
            # A throttle holds for all arrays of a request: each then waits for the one before.
            before = [job] if request.throttle else []
    if plan.after is None:
        return Sent(arrays, None)
    last = arrays[-1][1].folder
    try:
        return Sent(arrays, sbatch(last, RENDER, "render.out", [job for job, _ in arrays]))
    except CommandError as error:
        done = ", ".join(job for job, _ in arrays)
        raise CommandError(f"{done} are submitted, but not {last / RENDER}: {error}") from error


def partly(
    plan: Draft, arrays: Sequence[tuple[str, Submission]], at: Submission, error: CommandError
) -> str:
    """What was sent before an error, and how to go on."""
    done = f"{len(arrays)} of {len(plan.arrays)} arrays are submitted"
    return f"{error}; {done}, see {at.folder}; the same command sends what is not in the queue"


def sbatch(folder: Path, script: str, output: str, after: Sequence[str]) -> str:
    """Send a script of a folder; the job's id."""
    words = [
        "--export=ALL",
        f"--chdir={folder}",
        # Percent signs of a path are no patterns.
        f"--output={str(folder).replace('%', '%%')}/{output}",
        *([f"--dependency=afterany:{':'.join(after)}"] if after else []),
        str(folder / script),
    ]
    return job_id(*words)


def data_folder(profile: Profile) -> Path:
    """Where the jobs find the data: as the profile says, or as here."""
    from nfbench.data.dataset import data_root

    return Path(profile.env.get("NFBENCH_DATA") or data_root().absolute())


def told_environment() -> str:
    """The variables that a job inherits, a line each: values of those that matter, no secret."""
    lines = [
        f"{name}={shlex.quote(value)}"
        if TOLD.fullmatch(name) and not SECRET.search(name)
        else f"{name} (value not kept)"
        for name, value in sorted(environment().items())
    ]
    return "\n".join(lines) + "\n"
