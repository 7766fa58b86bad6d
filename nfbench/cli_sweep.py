"""`nfbench sweep`: a search over settings of a row."""

import logging
import shlex
import sys
from typing import TYPE_CHECKING

import click

from nfbench.cli_device import device_option, threads_option
from nfbench.cli_slurm import send_sweep, slurm_option
from nfbench.errors import UsageError, gathering
from nfbench.exits import FAILED, INTERRUPTED
from nfbench.logs import logging_to

if TYPE_CHECKING:
    from nfbench.sweeps.space import Sweep

log = logging.getLogger("nfbench")


@click.command()
@click.argument("name")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    help="Trials side by side; by default as many as cores allow, one on a GPU.",
)
@device_option
@threads_option
@slurm_option
@click.option(
    "--workers",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="With --slurm: processes that run trials at once.",
)
@click.option("--dry-run", is_flag=True, help="Show what is searched and its cost; run nothing.")
def sweep(
    name: str,
    jobs: int | None,
    device: str,
    threads: int,
    profile: str | None,
    workers: int,
    dry_run: bool,
) -> None:
    """Search settings of a row by validation; test the winner, once.

    NAME is a file of experiments/sweeps/, such as

    \b
        title: MAF on two moons, in 500 steps
        row: toy2d/maf
        cell: moons
        seed: 0                             # of every run
        sampler: tpe                        # or random, or grid: every combination
        sampler_seed: 0
        trials: 12                          # of a grid by default all
        fixed: {training.max_steps: 500}    # in every trial
        space:
          training.learning_rate: {low: 3.0e-4, high: 3.0e-2, log: true}
          flow.layers: {low: 2, high: 10}   # whole numbers, as the setting is one; also step: 2
          flow.hidden: [[32], [64, 64]]     # a list of values

    Each trial is a run of the row with overrides, trained and validated, and never tested. When
    all are done the one with the best validation is tested, and results/sweeps/NAME.json, .md
    and .png tell all of it. A trial that fails is noted and stops nothing.

    The same command on other machines that share this folder adds processes to the sweep; they
    share its journal in runs/sweeps/NAME/, and no trial is run twice. Ctrl-C, or a crash, leaves
    what the same command takes up again: trials go on from their checkpoints.

    \b
        nfbench sweep maf_moons --dry-run
        nfbench sweep maf_moons --jobs 2
        nfbench sweep maf_moons --slurm mine --workers 8
    """
    if profile:
        send_sweep(name, profile, workers=workers, dry_run=dry_run, device=device, threads=threads)
        return
    from nfbench.launch.reproduce import default_jobs
    from nfbench.sweeps import launch
    from nfbench.sweeps.result import finished
    from nfbench.sweeps.space import load_sweep

    found = load_sweep(name)
    jobs = jobs or min(default_jobs(device, threads), found.trials)
    if dry_run:
        launch.show_plan(found, jobs, device=device, threads=threads)
        return
    if finished(found) or run_jobs(found, jobs, device=device, threads=threads):
        sys.exit(show(found))
    click.echo("other processes run the rest; the same command tells when they are done", err=True)


def run_jobs(found: "Sweep", jobs: int, *, device: str, threads: int) -> bool:
    """Work on a sweep, in this process or in several of it; tell whether it is finished."""
    from nfbench.sweeps.launch import launch, log_path

    try:
        if jobs > 1:
            return launch(found, jobs, device=device, threads=threads)
        with logging_to(log_path(found)):
            return work_here(found, device=device, threads=threads)
    except KeyboardInterrupt:
        click.echo(f"interrupted; to go on from there: {shlex.join(found.command)}", err=True)
        sys.exit(INTERRUPTED)


def work_here(found: "Sweep", *, device: str, threads: int) -> bool:
    """Work on a sweep in this process."""
    from nfbench.signals import InterruptedRunError
    from nfbench.sweeps.work import work

    try:
        return work(found, device=device, threads=threads, bar=sys.stderr.isatty())
    except InterruptedRunError as stopped:
        raise KeyboardInterrupt from stopped
    except UsageError:
        raise
    except Exception:
        log.exception("crashed; the same command goes on from what it saved")
        sys.exit(FAILED)


def show(found: "Sweep") -> int:
    """Render a sweep that is finished, and say where; the exit code."""
    from nfbench.summary import summary
    from nfbench.sweeps.pages import render
    from nfbench.sweeps.result import read, result_path

    page = render(found.name, found.root)
    result = read(result_path(found.name, found.root))
    click.echo(f"trial {result.winner}: {' '.join(result.trials[result.winner]['overrides'])}")
    click.echo("\n".join(summary(result.run)))
    click.echo(f"page: {page.relative_to(found.root)}")
    return FAILED if result.run.failure else 0


def sweep_pages(*, check: bool) -> None:
    """Render the page of every sweep with a record, or check that it is what the records give.

    Raises:
        UsageError: a record that cannot be read; where pages are checked, all that is wrong.
    """
    from nfbench.sweeps import pages
    from nfbench.sweeps.result import recorded

    wrong: list[str] = []
    for name in recorded():
        if not check:
            click.echo(f"sweeps/{name}: {pages.render(name).name}")
            continue
        with gathering(wrong):
            pages.check(name)
            click.echo(f"sweeps/{name}: the committed page is what the records give")
    if wrong:
        raise UsageError("\n".join(wrong))
