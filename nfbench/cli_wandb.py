"""`nfbench wandb` and `nfbench leaderboard`: what W&B is shown after the runs."""

import sys
from pathlib import Path

import click

from nfbench.exits import FAILED


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

    \b
        nfbench wandb sync
        nfbench wandb sync runs/maf2017_table1/maf_5_bounded

    All starts of a run that was interrupted become one run, pushed as a whole. What W&B has is
    not pushed again, so the same command goes on after an interruption, and nothing is there
    twice; runs that have not ended wait for the next one.
    A key is what `wandb login` or WANDB_API_KEY has set.
    """
    from nfbench.tracking.sync import sync

    good = sync(paths, dry_run=dry_run, patience=patience)
    sys.exit(0 if good else FAILED)


@click.group()
def leaderboard() -> None:
    """The tables as a leaderboard in W&B."""


@leaderboard.command("push")
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@click.option("--all", "every", is_flag=True, help="Tables without a published number too.")
@click.option("--dry-run", is_flag=True, help="Print it; needs no key and no network.")
@click.option("--project", default="nfbench", show_default=True, help="W&B project.")
@click.option("--entity", help="W&B user or team; by default that of the key.")
def leaderboard_push(
    tables: tuple[str, ...], every: bool, dry_run: bool, project: str, entity: str | None
) -> None:
    """Push the leaderboard of every published table with records, or of those named, to W&B.

    \b
        nfbench leaderboard push --dry-run
        nfbench leaderboard push maf2017_table1

    Each is an artifact leaderboard-TABLE: a line for a cell with the published number, ours, both
    spreads, gap, verdict, remarks, cost and where its runs are. It comes from the records alone,
    and records that have not changed make no new version. A report shows it with charts, if
    nfbench[reports] is installed.
    """
    from nfbench.tracking.push import push

    push(tables, every=every, dry_run=dry_run, project=project, entity=entity)
