"""`nfbench slurm`: whether a profile works; and what other commands submit to a cluster."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from nfbench.exits import FAILED

if TYPE_CHECKING:
    from nfbench.launch.slurm import Report

COLORS = {"ok": "green", "note": "cyan", "warning": "yellow", "fault": "red"}


@click.group()
def slurm() -> None:
    """A SLURM cluster: check a profile, that is slurm/NAME.yaml.

    slurm/README.md leads from a login node to a table.
    """


@slurm.command()
@click.argument("profile")
@click.option("--no-job", is_flag=True, help="Check what can be told without a job.")
@click.option(
    "--wait",
    default=600.0,
    show_default=True,
    type=click.FloatRange(0.0),
    help="Seconds that the job may wait in the queue before it is cancelled.",
)
def doctor(profile: str, no_job: bool, wait: float) -> None:
    """Check on a login node that jobs of a profile would run, and say what to mend.

    First what SLURM tells: the partition, its limits, whether a job would be taken. Then a job of
    at most two minutes on the profile's nodes: the shared folder, names of nodes, Python, GPUs,
    data and W&B. Exits with 1 if anything is at fault.

    \b
        nfbench slurm doctor local
        nfbench slurm doctor path/to/mine.yaml --no-job
    """
    from nfbench.launch.doctor import diagnose
    from nfbench.launch.profile import load_profile
    from nfbench.record import find_root

    root = find_root()
    faults = 0
    for finding in diagnose(load_profile(profile, root), root, job=not no_job, wait=wait):
        kind = click.style(f"{finding.kind:8}", fg=COLORS[finding.kind])
        click.echo(f"{kind} {finding.check:11} {finding.message}")
        faults += finding.kind == "fault"
    sys.exit(FAILED if faults else 0)


def slurm_option(command: Callable[..., None]) -> Callable[..., None]:
    """The option that sends what a command would run here."""
    text = "Submit to SLURM instead, by the profile slurm/PROFILE.yaml or a file, and return."
    return click.option("--slurm", "profile", metavar="PROFILE", help=text)(command)


def send_table(
    table: str,
    profile: str,
    *,
    device: str = "auto",
    threads: int = 1,
    compile: bool = False,
    shard: bool = False,
    wandb: str = "auto",
    **wanted: Any,
) -> None:
    """Submit what is missing of a table, and say what was sent."""
    from nfbench.config import machine_words
    from nfbench.launch.profile import load_profile
    from nfbench.launch.slurm import submit_table

    words = machine_words(compile=compile, shard=shard, wandb=wandb)
    options = ["--device", device, *words]
    # A task of several cores is worth as many threads, if nothing else is asked for.
    wanted |= {"options": options, "threads": threads if threads > 1 else None}
    tell(table, submit_table(table, load_profile(profile), **wanted))


def send_sweep(name: str, profile: str, *, workers: int, dry_run: bool, **options: Any) -> None:
    """Submit processes that work on a sweep, and say what was sent."""
    from nfbench.launch.profile import load_profile
    from nfbench.launch.slurm import submit_sweep
    from nfbench.sweeps.space import load_sweep

    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    found = load_sweep(name)
    report = submit_sweep(
        found, load_profile(profile), workers=workers, options=words, dry_run=dry_run
    )
    tell(f"sweeps/{name}", report)


def tell(name: str, report: "Report") -> None:
    """Say what was sent; of a dry run print every file that would be written."""
    arrays = report.draft.arrays if report.draft else []
    n_new = sum(len(array.submission.cells) for array in arrays)
    click.echo(f"{name}: {report.n_done} done, {report.n_active} in the queue, {n_new} to send")
    if report.draft and not report.sent:
        for path, text in report.draft.texts():
            click.echo(f"\n==> {path}\n{text}", nl=False)
    for note in report.notes:
        click.echo(note)
    if not report.sent:
        return
    for job, each in report.sent.arrays:
        click.echo(f"submitted: array {job} of {each.n_tasks} tasks, in {each.folder}")
    if report.sent.after:
        click.echo(f"submitted: job {report.sent.after} renders the table after them")
    click.echo(f"how they are: nfbench status {name}")
