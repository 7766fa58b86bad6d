"""Commands as arrays of SLURM: written under runs/slurm/, sent, and left to it. Imports no torch.

What a folder holds is whole before the array is sent, and an array is known in the queue by its
folder: whatever is stopped in between, nothing is sent twice and nothing is forgotten.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
class Draft:
    """What would be sent: each array's submission, script and commands; the script after them."""

    arrays: list[tuple[Submission, str, str]]
    after: str | None

    def texts(self) -> Iterator[tuple[str, str]]:
        """Every file with its text."""
        for submission, script, commands in self.arrays:
            yield f"{submission.folder}/{SCRIPT}", script
            yield f"{submission.folder}/{COMMANDS}", commands
            yield f"{submission.folder}/{MANIFEST}", submission.text()
            yield f"{submission.folder}/{ENVIRONMENT}", told_environment()
        if self.after:
            yield f"{self.arrays[-1][0].folder}/{RENDER}", self.after


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
    """What would be sent: cells with the words of their commands, in arrays of `most` tasks.

    `after` are the words of commands that follow once all have ended, however they did.
    """
    first, size = following(root, name), most * profile.pack
    names, data = list(cells), data_folder(profile)
    title = name.replace("/", "-")
    arrays = []
    for i, start in enumerate(range(0, len(names), size)):
        folder = first.with_name(f"{int(first.name) + i:04}")
        chosen = tuple(names[start : start + size])
        submission = Submission(folder, profile.name, profile.pack, chosen)
        script = job_script(profile, title, submission.n_tasks, folder, root, data)
        lines = "".join(f"{shlex.join(cells[cell])}\n" for cell in chosen)
        arrays.append((submission, script, lines))
    return Draft(arrays, render_script(profile, title, after, root, data) if after else None)


def send(plan: Draft, profile: Profile) -> Sent:
    """Have SLURM look at a draft, write it down, and send it.

    Raises:
        CommandError: SLURM refuses, or does not answer; says what of it was sent.
        OSError: a file cannot be written; nothing of its array was sent.
    """
    for script in [plan.arrays[0][1], *([plan.after] if plan.after else [])]:
        call("sbatch", "--test-only", text=script)
    for path, text in plan.texts():
        write_atomic(Path(path), text)
    arrays: list[tuple[str, Submission]] = []
    for submission, _, _ in plan.arrays:
        # The throttle holds for all arrays together: each then waits for the one before.
        before = [job for job, _ in arrays[-1:]] if profile.throttle else []
        try:
            job = sbatch(submission.folder, SCRIPT, "%a.out", before)
        except CommandError as error:
            raise CommandError(partly(plan, arrays, submission, error)) from error
        arrays.append((job, submission))
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
