"""Whether a profile's jobs would run, check by check, and what to do where not. No torch here."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nfbench

from .commands import CommandError, call, config, missing
from .examination import Answers, check_submission, examine
from .finding import Finding, fault, note, ok, warning
from .limits import limits
from .profile import Profile

COMMANDS = ("sbatch", "squeue", "scontrol", "scancel")
CONTROLLER_SECONDS = 9.0
SKEW_SECONDS = 5.0
LEAST_BYTES = 5 * 10**9


def diagnose(profile: Profile, root: Path, *, job: bool, wait: float) -> Iterator[Finding]:
    """Every check in turn: here, of the partition, and with `job` on the profile's nodes."""
    if absent := missing(COMMANDS):
        where = "run this on a login node, or load SLURM's module"
        yield fault("commands", f"no {', '.join(absent)} here; {where}")
        return
    yield ok("commands", ", ".join(COMMANDS))
    try:
        yield controller()
        found = [*limits(profile), check_submission(profile), *of_cells(profile)]
    except CommandError as error:
        yield fault("controller", f"{error}; try again, then ask its administrator")
        return
    yield from found
    if not job:
        return
    if any(finding.kind == "fault" for finding in found):
        yield note("job", "not sent, since it would not run; mend the above first")
        return
    for result in examine(profile, root, wait):
        if isinstance(result, Answers):
            yield from judge(profile, result)
        else:
            yield result


def of_cells(profile: Profile) -> Iterator[Finding]:
    """What the same checks find at fault of the cells that ask for something else.

    Raises:
        CommandError: SLURM does not answer.
    """
    for form, keys in profile.cells.items():
        request = replace(profile, cells={}, **keys)
        bad = [f for f in (*limits(request), check_submission(request)) if f.kind != "ok"]
        yield from (replace(each, message=f"cells {form}: {each.message}") for each in bad)
        if not bad:
            yield ok("submission", f"cells {form}: accepted")


def controller() -> Finding:
    """Whether the controller answers, and its version.

    Raises:
        CommandError: it does not.
    """
    said, _ = call("scontrol", "ping", seconds=CONTROLLER_SECONDS)
    if " UP" not in said:
        raise CommandError(" ".join(said.replace("*", " ").split()))
    return ok("controller", f"answers, SLURM {config()['SLURM_VERSION']}")


def judge(profile: Profile, answers: Answers) -> Iterator[Finding]:
    """What the nodes' reports say."""
    for task, line in answers.silent.items():
        file = answers.folder / f"task-{task}.txt"
        what = "mend `setup`, `container` or `python`"
        yield fault("python", f"task {task} did not answer: {line}; see {file}; {what}")
    if not answers.reports:
        return
    yield software(answers.reports)
    yield folder(answers)
    yield names(answers.reports)
    yield gpus(profile, answers.reports)
    yield cpus(profile, answers.reports)
    yield data(answers.reports)
    yield wandb(answers.reports)
    yield clock(answers)
    yield disk(answers)


def failed(reports: Sequence[dict[str, Any]], key: str) -> list[str]:
    """`node: error` of each report whose value of a key is an error."""
    wrong = [r for r in reports if isinstance(r[key], str) and r[key].startswith("ERROR: ")]
    return [f"{r['node']}: {r[key].removeprefix('ERROR: ')}" for r in wrong]


def software(reports: Sequence[dict[str, Any]]) -> Finding:
    """Whether nfbench and torch can be imported there, and are the same as here."""
    if wrong := failed(reports, "versions"):
        return fault("python", f"{wrong[0]}; install nfbench where `python` of the profile is")
    found = {tuple(report["versions"].items()) for report in reports}
    if len(found) > 1:
        return warning("python", f"nodes differ: {sorted(map(dict, found), key=str)}")
    versions = dict(found.pop())
    text = " ".join(f"{name} {versions[name]}" for name in ("python", "nfbench", "torch"))
    if versions["nfbench"] != nfbench.__version__:
        return warning("python", f"{text} there, nfbench {nfbench.__version__} here; update one")
    return ok("python", f"{text} in {versions['package']}")


def folder(answers: Answers) -> Finding:
    """Whether the nodes see the same runs/ as this machine, both ways."""
    blind = [r["node"] for r in answers.reports if r["token"] != answers.nonce]
    mute = [r["node"] for r in answers.reports if r["task"] not in answers.came_back]
    what = "put the repository on a file system that all nodes share, and bind it in a container"
    if blind:
        return fault("folder", f"{blind[0]} does not see {answers.folder} as it is here; {what}")
    if mute:
        return fault("folder", f"what {mute[0]} wrote to {answers.folder} is not here; {what}")
    return ok("folder", f"{answers.folder} is the same on all nodes")


def names(reports: Sequence[dict[str, Any]]) -> Finding:
    """Whether all nodes find the first one, without which a run over nodes waits for ever."""
    if wrong := failed(reports, "first"):
        what = "ask for name resolution, or export MASTER_ADDR in `setup`"
        level = fault if len(reports) > 1 else warning
        return level("names", f"the first node's name is unknown to {wrong[0]}; {what}")
    return ok("names", f"the first node is {reports[0]['first']} to all {len(reports)}")


def gpus(profile: Profile, reports: Sequence[dict[str, Any]]) -> Finding:
    """Whether torch sees and can use the GPUs that were asked for."""
    if wrong := failed(reports, "gpus"):
        return fault("cuda", f"{wrong[0]}; is torch built for these GPUs and their driver?")
    for report in reports:
        count, visible = report["gpus"]["count"], report["gpus"]["visible"]
        if count < profile.gpus:
            seen = f"torch sees {count} of {profile.gpus} on {report['node']}"
            what = "is torch built for CUDA, and has the container its option, as in --nv?"
            return fault("cuda", f"{seen} (CUDA_VISIBLE_DEVICES={visible}); {what}")
        if count > profile.gpus:
            seen = f"torch sees {count} on {report['node']}, the profile asks for {profile.gpus}"
            return warning("cuda", f"{seen}; set `gpus`, or jobs share them unawares")
    kinds = sorted({name for report in reports for name in report["gpus"]["names"]})
    return ok("cuda", f"{profile.gpus} on each node {' '.join(kinds)}".strip())


def cpus(profile: Profile, reports: Sequence[dict[str, Any]]) -> Finding:
    """Whether a task has the CPUs that were asked for."""
    least = min(reports, key=lambda report: report["cpus"])
    if least["cpus"] < profile.cpus_per_task:
        seen = f"a task on {least['node']} has {least['cpus']} of {profile.cpus_per_task}"
        return warning("threads", f"{seen}; more threads than that wait for one another")
    return ok("threads", f"a task has {least['cpus']}, asked for {profile.cpus_per_task}")


def data(reports: Sequence[dict[str, Any]]) -> Finding:
    """Whether the folder of the data files is there."""
    if wrong := failed(reports, "data"):
        return fault("data", wrong[0])
    roots = {report["data"]["root"] for report in reports}
    absent = [r["node"] for r in reports if not r["data"]["there"]]
    what = "set NFBENCH_DATA in `env` to a folder that nodes see; small sets need none"
    if absent:
        return warning("data", f"no {', '.join(sorted(roots))} on {absent[0]}; {what}")
    return ok("data", f"{', '.join(sorted(roots))} on all nodes")


def wandb(reports: Sequence[dict[str, Any]]) -> Finding:
    """Whether W&B can be reached from the nodes; runs need it not."""
    if wrong := failed(reports, "wandb"):
        return note("wandb", f"not reached from {wrong[0]}; runs there log offline")
    return ok("wandb", f"{reports[0]['wandb']} is reached")


def clock(answers: Answers) -> Finding:
    """Whether the nodes' clocks agree with this one, as far as the job's duration tells."""
    end = max(file.stat().st_ctime for file in answers.folder.iterdir())
    for report in answers.reports:
        off = max(answers.submitted - report["time"], report["time"] - end, 0.0)
        if off > SKEW_SECONDS:
            return warning(
                "clock", f"{report['node']} is off by {off:.0f} s or more; files' times lie"
            )
    return ok("clock", f"within {SKEW_SECONDS:g} s, as far as can be told")


def disk(answers: Answers) -> Finding:
    """Whether there is room for checkpoints."""
    known = [report for report in answers.reports if isinstance(report["free"], int)]
    if not known:
        return warning("disk", failed(answers.reports, "free")[0])
    free = min(report["free"] for report in known)
    text = f"{free / 1e9:.0f} GB are free at {answers.folder}"
    if free < LEAST_BYTES:
        return warning("disk", f"{text}; checkpoints of image models take gigabytes")
    return ok("disk", text)
