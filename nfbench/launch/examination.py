"""A two-minute job that asks a profile's nodes what they see. Imports no torch."""

import json
import secrets
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nfbench import record

from .checkup import ANSWER, MARK, TOKEN
from .commands import CommandError, call, job_id, records
from .finding import Finding, fault, note, ok
from .profile import Profile, directives, inside, preamble, seconds

TIME = "00:02:00"
POLL_SECONDS = 0.5
# A shared file system may show a node's files late; those of a job that failed may never come.
SETTLE_SECONDS, FAILED_SECONDS = 60.0, 5.0
WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED"}
RUNNING = {"RUNNING", "COMPLETING", "STAGE_OUT"}


@dataclass(frozen=True)
class Answers:
    """What came back of a job: a report of each task, or None and what it said instead."""

    folder: Path
    nonce: str
    submitted: float
    reports: list[dict[str, Any]]
    silent: dict[int, str]
    came_back: list[int]


def script(profile: Profile, *lines: str) -> str:
    """A batch script: the profile's options and first lines, then these."""
    return "\n".join(["#!/bin/bash", *directives(profile), *preamble(profile), *lines, ""])


def check_submission(profile: Profile) -> Finding:
    """Whether SLURM would take a job of the profile, by `sbatch --test-only`."""
    try:
        _, said = call("sbatch", "--test-only", text=script(profile, "true"))
    except CommandError as error:
        return fault("submission", f"{error}; see `partition`, `account`, `qos`, `sbatch`")
    words = said.strip().removeprefix("sbatch: ").splitlines()
    return ok("submission", words[-1] if words else "accepted")


def job_script(profile: Profile, root: Path, folder: Path, nonce: str) -> str:
    """The script of the job: one task on each node, each with a file for what it says."""
    # Percent signs of a path are no patterns of srun.
    output = f"--output={str(folder).replace('%', '%%')}/task-%t.txt"
    srun = ["srun", "--export=ALL", f"--ntasks={profile.nodes}", "--ntasks-per-node=1"]
    command = inside(profile, "-m", "nfbench.launch.checkup", str(folder), nonce)
    short = TIME if profile.seconds > seconds(TIME) else profile.time
    return script(
        replace(profile, time=short, signal_seconds=1),
        f"export NFBENCH_ROOT={shlex.quote(str(root))}",
        'NFBENCH_FIRST_NODE=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        "export NFBENCH_FIRST_NODE",
        f"{shlex.join([*srun, output])} {command}",
    )


def examine(profile: Profile, root: Path, wait: float) -> Iterator[Finding | Answers]:
    """Runs the job; what became of it, then what it answered if anything.

    Ends the job if it is left: by Ctrl-C, or because it has not started in `wait` seconds.
    """
    folder = root / "runs" / "slurm" / "doctor" / profile.name
    shutil.rmtree(folder, ignore_errors=True)
    nonce = secrets.token_hex(8)
    record.write_atomic(folder / TOKEN, nonce)
    path = folder / "job.sh"
    record.write_atomic(path, job_script(profile, root, folder, nonce))
    submitted = time.time()
    log = f"--output={str(folder).replace('%', '%%')}/log.txt"
    try:
        job = job_id("--export=ALL", "--job-name=nfbench-doctor", log, str(path))
    except CommandError as error:
        yield fault("job", str(error))
        return
    try:
        yield note("job", f"{job} is sent, and may wait {wait:g} s for its turn")
        fields = follow(job, wait)
    except BaseException:
        call("scancel", "--quiet", job)
        raise
    if fields["JobState"] in WAITING:
        call("scancel", "--quiet", job)
        reason = fields.get("Reason", "unknown")
        yield fault("job", f"not started in {wait:g} s ({reason}); cancelled: give it --wait")
        return
    patience = SETTLE_SECONDS if fields["JobState"] == "COMPLETED" else FAILED_SECONDS
    files = [folder / "log.txt", *(folder / f"task-{task}.txt" for task in range(profile.nodes))]
    settle(files, patience)
    yield ended(job, fields, folder, time.time() - submitted)
    yield collect(folder, nonce, submitted, profile.nodes)


def follow(job: str, wait: float) -> dict[str, str]:
    """The fields of a job once it is over, or still waits after `wait` seconds.

    Raises:
        CommandError: SLURM does not answer.
    """
    start = time.monotonic()
    while True:
        (fields,) = records("job", job)
        state = fields["JobState"]
        if state not in WAITING | RUNNING:
            return fields
        if state in WAITING and time.monotonic() - start > wait:
            return fields
        time.sleep(POLL_SECONDS)


def ended(job: str, fields: dict[str, str], folder: Path, took: float) -> Finding:
    """How a job ended."""
    state, nodes = fields["JobState"], fields.get("NodeList", "?")
    if state == "COMPLETED":
        return ok("job", f"{job} ran on {nodes}, {took:.0f} s from submission to end")
    reason, code = fields.get("Reason", "?"), fields.get("ExitCode", "?")
    message = f"{job} on {nodes}: {state} ({reason}, exit code {code})"
    if not (folder / "log.txt").exists():
        return fault(
            "job", f"{message}; it left no log: is {folder} on a file system nodes share?"
        )
    return fault("job", f"{message}; {last_line(folder / 'log.txt')}; see {folder}/log.txt")


def settle(files: Sequence[Path], patience: float) -> None:
    """Waits until all files are here, but no longer than so many seconds."""
    end = time.monotonic() + patience
    while not all(file.exists() for file in files) and time.monotonic() < end:
        time.sleep(POLL_SECONDS)


def collect(folder: Path, nonce: str, submitted: float, n_tasks: int) -> Answers:
    """What the tasks left in the folder."""
    files = {task: folder / f"task-{task}.txt" for task in range(n_tasks)}
    found = {task: read_report(file, nonce) for task, file in files.items()}
    reports = [report for report in found.values() if report]
    shared = [report["task"] for report in reports if report["token"] == nonce]
    answers = {task: folder / ANSWER.format(task) for task in shared}
    settle(list(answers.values()), SETTLE_SECONDS)
    came = [task for task, file in answers.items() if file.exists() and file.read_text() == nonce]
    silent = {task: last_line(files[task]) for task, report in found.items() if not report}
    return Answers(folder, nonce, submitted, reports, silent, came)


def read_report(file: Path, nonce: str) -> dict[str, Any] | None:
    """The report in a task's file, if there is one of this job."""
    if not file.exists():
        return None
    for line in file.read_text(errors="replace").splitlines():
        if line.startswith(MARK) and nonce in line:
            report: dict[str, Any] = json.loads(line.removeprefix(MARK))
            return report
    return None


def last_line(file: Path) -> str:
    """The last line that says something."""
    text = file.read_text(errors="replace") if file.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
