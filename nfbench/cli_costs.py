"""`nfbench costs`: seconds and memory of runs, as they were and as short measurements tell."""

import sys

import click

from nfbench.cli_device import device_option, threads_option
from nfbench.costs import LIMIT
from nfbench.errors import UsageError
from nfbench.exits import FAILED


@click.command()
@click.argument("targets", nargs=-1, metavar="[TABLE|TABLE/ROW|TABLE/ROW/CELL]...")
@click.option("--measure", is_flag=True, help="Measure these cells, or all, and then render.")
@device_option
@threads_option
@click.option(
    "--limit",
    default=LIMIT,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Seconds after which a cell is given up.",
)
@click.option("--again", is_flag=True, help="Measure also what has been measured here already.")
def costs(
    targets: tuple[str, ...],
    measure: bool,
    device: str,
    threads: int,
    limit: float,
    again: bool,
) -> None:
    """Render results/costs.md: what each table costs on each device, and what runs did cost.

    With --measure first time a few steps and an evaluation of every cell on random data of the
    right shape, so that no data set is needed, and extrapolate to one run. It is done in a process
    apart, one cell after another; one that fails is told with its reason, and stops nothing. What
    is found is kept in results/costs/, a file for each device. Ctrl-C keeps what is there, and the
    same command goes on: with the cells that are missing, then with those that failed.

    \b
        nfbench costs --measure demo toy2d/gaussian --device cpu
        nfbench costs --measure
        nfbench costs
    """
    from nfbench import cost_page
    from nfbench.record import find_root

    good = True
    if measure:
        from nfbench.launch.costs import measure as measure_tables

        good = measure_tables(targets, device=device, threads=threads, limit=limit, again=again)
    elif targets or again:
        raise UsageError("costs: with names of tables, or --again, expected --measure; got none")
    click.echo(f"page: {cost_page.render().relative_to(find_root())}")
    sys.exit(0 if good else FAILED)


def costs_page(*, check: bool) -> None:
    """Render the page of costs, if there is one, or check that it is what its files give."""
    from nfbench import cost_page

    if not cost_page.is_kept():
        return
    if check:
        cost_page.check()
        click.echo("costs: the committed page is what the records give")
    else:
        click.echo(f"costs: {cost_page.render().name}")
