"""The command line: parse, call, print. Torch is imported only by the commands that compute."""

import logging
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from nfbench import __version__
from nfbench.cli_compare import compare
from nfbench.cli_costs import costs
from nfbench.cli_data import data
from nfbench.cli_device import device_option, threads_option
from nfbench.cli_plot import plot
from nfbench.cli_report import report
from nfbench.cli_sample import sample
from nfbench.cli_slurm import send_table, slurm, slurm_option
from nfbench.cli_speed import speed
from nfbench.cli_status import FOLLOWING
from nfbench.cli_sweep import sweep
from nfbench.cli_table import table
from nfbench.cli_wandb import leaderboard
from nfbench.cli_wandb import wandb as wandb_group
from nfbench.errors import UsageError
from nfbench.exits import FAILED, INTERRUPTED, USAGE_ERROR
from nfbench.logs import logging_to
from nfbench.signals import InterruptedRunError, StopRequest
from nfbench.world import world

log = logging.getLogger("nfbench")
SIGN = "NFBENCH_INTERRUPTED"  # names a file that a run makes when it is told to stop


class Commands(click.Group):
    """Commands in the order they are written here; a UsageError is one line and exit code 2."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, unsorted."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; show what is the user's to mend without a traceback."""
        try:
            return super().invoke(ctx)
        except UsageError as error:
            click.echo(f"nfbench: {error}", err=True)
            ctx.exit(USAGE_ERROR)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nfbench")
def main() -> None:
    """Reproduce the published tables of normalizing flows, with a verdict.

    \b
    nfbench reproduce demo                      a small table, in minutes, without a download
    nfbench data list                           which data sets are here
    nfbench run maf_5_bounded power --seed 0    one cell: train, test, write its record
    nfbench table maf2017_table1                ours beside the paper's, from the records
    """


def machine_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of how to compute; they change no setting of an experiment."""
    options = (
        device_option,
        threads_option,
        click.option(
            "--compile", is_flag=True, help="Compile the training step; pays for long runs."
        ),
        click.option(
            "--shard",
            is_flag=True,
            help="Share the optimizer's state out over the processes of a run.",
        ),
        click.option(
            "--wandb",
            type=click.Choice(["auto", "online", "offline", "disabled"]),
            default="auto",
            show_default=True,
            help="W&B; auto is WANDB_MODE, else online with a key and a server, else offline.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@click.argument("row")
@click.argument("cell")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--seed", default=0, show_default=True, help="Seed of weights, batches and noise.")
@machine_options
@click.option(
    "--bar/--no-bar", default=None, help="Progress bar; by default where there is a terminal."
)
def run(
    row: str,
    cell: str,
    overrides: tuple[str, ...],
    seed: int,
    device: str,
    threads: int,
    compile: bool,
    shard: bool,
    wandb: str,
    bar: bool | None,
) -> None:
    """Train and test one cell of a table and write its record.

    ROW is a row's name, or TABLE/ROW where several tables have it; CELL is a column. A run that
    was cut goes on from its last checkpoint; a finished one is left as it is. Settings can be
    overridden, as in

    \b
        nfbench run maf_5 power training.max_steps=1000 flow.layers=3

    but the record of such a run stays with the run and is never shown in the table.
    """
    from nfbench import record
    from nfbench.config import load
    from nfbench.summary import summary

    experiment, first = load(row, cell, seed, overrides), world().is_first
    with logging_to(record.run_dir(experiment) / "log.txt", quiet=not first):
        try:
            with StopRequest(deferred=True) as stop:  # the imports take seconds
                from nfbench.run import run as run_experiment

                stop.admit()
                result = run_experiment(
                    experiment,
                    device=device,
                    threads=threads,
                    compile=compile,
                    shard=shard,
                    bar=first and (sys.stderr.isatty() if bar is None else bar),
                    wandb=wandb,
                )
        except InterruptedRunError as stopped:
            log.warning(
                "stopped by %s; to go on from there: %s", stopped, shlex.join(experiment.command)
            )
            tell_launcher()
            end(INTERRUPTED)
        except UsageError:
            raise
        except Exception:
            log.exception("the run crashed; what it saved is in %s", record.run_dir(experiment))
            end(FAILED)
    if first:
        click.echo("\n".join(summary(result)))
    end(FAILED if result.failure else 0)


def tell_launcher() -> None:
    """Leave a sign for who started this process that the same command would go on."""
    if sign := os.environ.get(SIGN):
        Path(sign).touch()


def end(exit_code: int) -> NoReturn:
    """Exit; of several processes at once, as their threads can bring down one that lingers."""
    if world().size > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)


@main.command()
@click.argument("table")
@click.option("--row", "rows", multiple=True, help="Only this row (repeatable).")
@click.option("--cell", "cells", multiple=True, help="Only this cell (repeatable).")
@click.option(
    "--seeds", default=1, show_default=True, type=click.IntRange(1), help="Seeds 0 to N-1."
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    help="Cells side by side; by default as many as cores allow, one on a GPU.",
)
@machine_options
@slurm_option
@click.option("--push", is_flag=True, help="With --slurm: push the leaderboard after the table.")
@click.option("--dry-run", is_flag=True, help="Show the plan and its cost; run nothing.")
def reproduce(
    table: str,
    rows: tuple[str, ...],
    cells: tuple[str, ...],
    seeds: int,
    jobs: int | None,
    device: str,
    threads: int,
    compile: bool,
    shard: bool,
    wandb: str,
    profile: str | None,
    push: bool,
    dry_run: bool,
) -> None:
    """Run what is missing of a table, then render it.

    Finished cells are skipped and started ones go on; a cell that fails does not stop the rest.
    Each cell runs in a process of its own, by the command that `nfbench run --help` describes,
    with a log beside its checkpoints. With --slurm each is a task of an array; slurm/README.md
    leads through it, and nfbench status tells how they are.
    """
    wanted: dict[str, Any] = {
        "rows": rows,
        "cells": cells,
        "seeds": range(seeds),
        "dry_run": dry_run,
    }
    wanted |= {"device": device, "threads": threads, "compile": compile, "shard": shard}
    wanted["wandb"] = wandb
    if profile:
        send_table(table, profile, push=push, **wanted)
        return
    if push:
        raise UsageError("--push: expected --slurm; here call nfbench leaderboard push afterwards")
    from nfbench.launch.reproduce import reproduce as reproduce_table

    good = reproduce_table(table, jobs=jobs, **wanted)
    sys.exit(0 if good else FAILED)


@main.command()
@click.argument("target", metavar="RUN|CHECKPOINT")
@click.option("--seed", type=click.IntRange(0), help="Seed of the run; by default 0.")
def audit(target: str, seed: int | None) -> None:
    """Check trained weights: log-determinant against autograd, inverse, samples, mass.

    RUN is TABLE/ROW/CELL, with /SEED unless it is 0, or a run's folder; its best weights so far
    are checked, and if its record is of these, the audit is stored there. CHECKPOINT is a file
    best.pt or last.pt, wherever it lies.

    \b
        nfbench audit maf2017_table1/maf_5_bounded/power/1
    """
    from nfbench.inspection import inspect

    found = inspect(target, seed=seed)
    for name, value in found.audit.items():
        click.echo(f"{name}: {'not measured' if value is None else f'{value:.6g}'}")
    for words in found.verdict:
        click.echo(f"verdict: {words}")
    click.echo(f"of {found.checkpoint}, stored in {found.record or 'no record'}")


main.add_command(table)
main.add_command(plot)
main.add_command(compare)
main.add_command(report)
main.add_command(sample)
main.add_command(speed)
main.add_command(costs)
main.add_command(sweep)
main.add_command(data)
main.add_command(wandb_group)
main.add_command(leaderboard)
main.add_command(slurm)
for each in FOLLOWING:
    main.add_command(each)
