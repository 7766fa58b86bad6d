"""`nfbench speed`: what densities, samples and training steps of trained weights cost."""

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from nfbench.cli_device import device_option, threads_option
from nfbench.errors import UsageError
from nfbench.exits import FAILED
from nfbench.soundness import passes

if TYPE_CHECKING:
    from nfbench.throughput import Measurement

KINDS = {"density": "log_prob", "sample": "sample", "training": "training"}  # to their keys
ENDS = {name: f"{key}_curve_end" for name, key in KINDS.items()}


@click.command()
@click.argument("target", metavar="TABLE|RUN")
@click.option("--row", "rows", multiple=True, help="Of a table only this row (repeatable).")
@click.option("--cell", "cells", multiple=True, help="Of a table only this cell (repeatable).")
@click.option("--seed", type=click.IntRange(0), help="Seed of the runs; by default 0.")
@device_option
@threads_option
@click.option("--again", is_flag=True, help="Of a table also what has been measured here already.")
def speed(
    target: str,
    rows: tuple[str, ...],
    cells: tuple[str, ...],
    seed: int | None,
    device: str,
    threads: int,
    again: bool,
) -> None:
    """Measure densities, samples and training of trained weights, in a process of its own.

    RUN is TABLE/ROW/CELL, with /SEED unless it is 0, or a run's folder, whose best weights are
    taken; of a TABLE every run that is here is measured so, one process after another. Each size
    of batch is called once to warm up, then up to 20 times: medians and quartiles, until larger
    batches do not pay. The seconds are those of an otherwise idle machine only if it is one; if it
    was not in the minute before, that is said, and the record has the load. Beside them stands
    what no hardware changes: passes and evaluations, parameters, and FLOPs in matrix products and
    convolutions as torch counts them.

    What is found replaces the speed in the run's record, and only that. Of a table it writes the
    page and a figure of accuracy against the cost of a sample, results/TABLE_speed.png.

    \b
        nfbench speed demo/maf/digits
        nfbench speed digits --threads 2
    """
    from nfbench.catalog import table_names

    if caution := busy(threads):
        click.echo(caution, err=True)
    if target in table_names():
        from nfbench.launch.measure import measure_table

        options: Any = {"seed": seed or 0, "device": device, "threads": threads, "again": again}
        sys.exit(0 if measure_table(target, rows=rows, cells=cells, **options) else FAILED)
    if rows or cells or again:
        raise UsageError(
            f"{target}: expected a table with --row, --cell and --again, and there is none of "
            f"this name (tables: {', '.join(table_names())})"
        )
    from nfbench.throughput import measure_run

    found = measure_run(target, seed=seed, device=device, threads=threads)
    click.echo("\n".join(report(found)))


def busy(threads: int) -> str:
    """That others took the cores in the last minute, in words; empty if enough were idle."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load <= cores - threads + 0.5:
        return ""
    return (
        f"this machine is busy: {load:.1f} processes on {cores} cores in the last minute; what is "
        "measured now says more of it than of the flow (--again measures a table anew)"
    )


def report(found: "Measurement") -> Iterator[str]:
    """What was measured, in lines."""
    from tabulate import tabulate

    speed: Any = found.speed
    lines = [
        [name, *point_of(point)]
        for name, key in KINDS.items()
        for point in speed.get(f"{key}_curve", [])
    ]
    heads = ["", "batch", "ms", "quartiles", "repeats", "rows/s"]
    align = ["left", *["right"] * 5]
    yield tabulate(lines, heads, "simple", colalign=align, disable_numparse=True)
    ends = [f"{name} {speed[key]}" for name, key in ENDS.items() if key in speed]
    yield f"larger batches: {', '.join(ends)}"
    yield (
        f"by {speed['device']}, threads {speed['threads']}, {speed['precision']}, torch "
        f"{speed['versions']['torch']}; weights of step {speed['step']}, {found.checkpoint}"
    )
    yield f"load of the machine before: {speed['load']}"
    if (training := speed.get("training_precision", speed["precision"])) != speed["precision"]:
        yield f"training in {training}"
    flops = {name: speed.get(f"{key}_flops") for name, key in KINDS.items()}
    counted = [f"{name} {value:.3g}" for name, value in flops.items() if value is not None]
    yield f"FLOPs an example: {', '.join(counted) or 'not counted'}"
    yield f"parameters: {found.n_parameters:,}"
    if found.record is not None and "passes_per_sample" in found.record.audit:
        yield "passes: {} for a density, {} for a sample".format(*passes(found.record))
    yield f"stored in {found.place or 'no record'}"


def point_of(point: dict[str, Any]) -> list[str]:
    """The cells of one batch size."""
    low, high = point["ms_quartiles"]
    rate = 1000 * point["batch"] / point["ms"]
    spread = f"{low:.3g} - {high:.3g}"
    return [
        f"{point['batch']}",
        f"{point['ms']:.3g}",
        spread,
        f"{point['ms_repeats']}",
        f"{rate:.3g}",
    ]
