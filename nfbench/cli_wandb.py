"""`nfbench wandb` and `nfbench leaderboard`: what W&B is shown after the runs."""

import sys
from pathlib import Path

import click

FAILED = 1


@click.group()
def wandb() -> None:
    """Runs in W&B that were tracked offline."""


@wandb.command("sync")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@click.option("--dry-run", is_flag=True, help="Show what would be pushed; needs no network.")
@click.option(
    "--patience",
    default=300.0,
    show_default=True,
    type=click.FloatRange(1),
    help="Seconds in which W&B has to take one more run.",
)
def wandb_sync(paths: tuple[Path, ...], dry_run: bool, patience: float) -> None:
    """Push what ran offline, say on compute nodes, below PATH; by default all of runs/.

    \\b
        nfbench wandb sync
        nfbench wandb sync runs/maf2017_table1/maf_5_bounded

    All starts of a run that was interrupted become one run. What W&B has is not pushed again, so
    the same command goes on after an interruption; runs that have not ended wait for the next one.
    A key is what `wandb login` or WANDB_API_KEY has set.
    """
    from nfbench.record import find_root
    from nfbench.tracking.sync import sync

    good = sync(paths or (find_root() / "runs",), dry_run=dry_run, patience=patience)
    sys.exit(0 if good else FAILED)
