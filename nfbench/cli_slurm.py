"""`nfbench slurm`: what a cluster needs to be told, and whether that works."""

import sys

import click

COLORS = {"ok": "green", "note": "cyan", "warning": "yellow", "fault": "red"}
FAULT = 1


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
    sys.exit(FAULT if faults else 0)
