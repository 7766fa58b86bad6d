"""`nfbench status`, `cancel`, `logs` and `retry`: what became of submitted cells."""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from nfbench.cli_slurm import send_table, slurm_option
from nfbench.errors import UsageError
from nfbench.exits import FAILED, INTERRUPTED

if TYPE_CHECKING:
    from rich.console import RenderableType

    from nfbench.launch.queue import Queue
    from nfbench.launch.standing import Standing

COLORS = {
    "done": "green",
    "running": "cyan",
    "requeued": "yellow",
    "queued": "blue",
    "failed": "red",
    "stale": "magenta",
    "started": "white",
    "missing": "white",
}
SECONDS = 5.0
SHOWN = 30  # lines of one state; the others are counted
TELLING = ("running", "requeued", "failed")  # states of which some are shown however many


@click.command()
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@click.option("--watch", is_flag=True, help="Look again every 5 seconds, until all have ended.")
def status(tables: tuple[str, ...], watch: bool) -> None:
    """Show how the cells of tables are, by default of all that were submitted.

    Done, running with step, best validation and the time left, queued, requeued, failed with the
    last lines of its log. Told from records, runs/slurm/ and squeue; needs no accounting.

    \b
        nfbench status
        nfbench status maf2017_table1 --watch
    """
    from rich.live import Live

    from nfbench.console import new_console

    console = new_console()
    if not watch:
        console.print(look(tables)[0])
        return
    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                shown, left = look(tables)
                live.update(shown, refresh=True)
                if not left:
                    return
                time.sleep(SECONDS)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def look(names: Sequence[str]) -> tuple["RenderableType", bool]:
    """What status shows, and whether anything is, or may be, left to wait for."""
    from rich.console import Group
    from rich.text import Text

    from nfbench.launch.commands import missing
    from nfbench.launch.manifest import submitted_names
    from nfbench.launch.standing import IN_QUEUE, standings
    from nfbench.record import find_root

    root, parts, left = find_root(), list["RenderableType"](), False
    if not (names := names or submitted_names(root)):
        return Text("nothing was submitted yet: nfbench reproduce TABLE --slurm PROFILE"), False
    queue = ask()
    if isinstance(queue, str):
        left = not missing(["squeue"])  # a controller that is busy answers later
        parts.append(Text(f"what waits or runs is not known: {queue}", style="yellow"))
    for name in names:
        found = standings(name, None if isinstance(queue, str) else queue, root)
        parts += view(name, found)
        left = left or any(each.state in IN_QUEUE for each in found)
    return Group(*parts), left


def ask() -> "Queue | str":
    """The queue, or why it is not known."""
    from nfbench.launch.commands import CommandError
    from nfbench.launch.queue import queue

    try:
        return queue()
    except CommandError as error:
        return str(error)


def view(name: str, found: Sequence["Standing"]) -> "list[RenderableType]":
    """A table's counts on a line, then its cells by their states."""
    from rich.table import Table
    from rich.text import Text

    from nfbench.launch.standing import ORDER

    counts = Counter(each.state for each in found)
    told = ", ".join(f"{counts[state]} {state}" for state in ORDER if counts[state])
    cells = Table.grid(padding=(0, 2))
    for state in ORDER:
        those, word = [s for s in found if s.state == state], Text(state, style=COLORS[state])
        shown = SHOWN if state in TELLING or len(those) <= SHOWN else 0
        for each in those[:shown]:
            cells.add_row(Text(each.name), word, Text(each.note))
        if len(those) > shown:
            cells.add_row(f"{len(those) - shown} cells", word, "")
    return [Text(f"{name}: {told or 'nothing'}", style="bold"), cells]


@click.command()
@click.argument("target", required=False, metavar="[TABLE|CELL]")
def cancel(target: str | None) -> None:
    """Cancel what waits or runs of a table, of a cell, or of all.

    What a cell had done is in its checkpoint; submitting again goes on from there.

    \b
        nfbench cancel maf2017_table1
        nfbench cancel maf2017_table1/maf_5/power
        nfbench cancel sweeps/maf_moons
    """
    from nfbench.launch.control import cancel as cancel_target
    from nfbench.record import find_root

    found = cancel_target(target, find_root())
    for each in found[:SHOWN]:
        click.echo(f"cancelled: {each.task.name} {', '.join(each.cells) or 'that renders'}")
    if len(found) > SHOWN or not found:
        click.echo(f"{len(found)} jobs cancelled")


@click.command()
@click.argument("target", metavar="TABLE/ROW/CELL[/SEED]")
@click.option("--follow", is_flag=True, help="Go on as the log grows, until Ctrl-C.")
def logs(target: str, follow: bool) -> None:
    """Print the log of a cell; of one that never got so far, what its job printed.

    \b
        nfbench logs demo/maf/moons
        nfbench logs demo/maf/moons/1 --follow
    """
    from nfbench.launch.control import log_of
    from nfbench.record import find_root

    path = log_of(target, find_root())
    click.echo(f"==> {path}", err=True)
    if not follow:
        click.echo(path.read_text(errors="replace"), nl=False)
        return
    try:
        sys.exit(subprocess.run(["tail", "-n", "+1", "-F", str(path)], check=False).returncode)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


@click.command()
@click.argument("table")
@click.option("--failed", is_flag=True, required=True, help="The cells that failed: all there is.")
@slurm_option
@click.option("--dry-run", is_flag=True, help="Show which; move and run nothing.")
def retry(table: str, failed: bool, profile: str | None, dry_run: bool) -> None:
    """Run the failed cells of a table again, here or on SLURM.

    A cell whose record says that it failed begins anew: its record and its run are moved to
    runs/failed/. One whose process died goes on from its checkpoint.

    \b
        nfbench retry demo --failed
        nfbench retry demo --failed --slurm mine
    """
    from nfbench.launch.control import put_aside
    from nfbench.launch.plan import FAILED as BAD
    from nfbench.launch.profile import load_profile
    from nfbench.launch.standing import standings
    from nfbench.record import find_root

    root, queue = find_root(), ask()
    if profile:
        load_profile(profile, root)  # nothing is moved for one that is none
        if isinstance(queue, str):
            raise UsageError(queue)
    found = standings(table, None if isinstance(queue, str) else queue, root)
    bad = [each for each in found if each.state == BAD]
    if dry_run or not bad:
        click.echo("\n".join(f"failed: {each.name}" for each in bad) or f"{table}: none failed")
        return
    jobs, notes = put_aside(bad)
    click.echo("".join(f"{note}\n" for note in notes), nl=False)
    places = [job.experiment for job in jobs]
    wanted: dict[str, Any] = {
        "rows": list(dict.fromkeys(each.row for each in places)),
        "cells": list(dict.fromkeys(each.cell for each in places)),
        "seeds": sorted({each.seed for each in places}),
        "only": [job.name for job in jobs],
    }
    if profile:
        send_table(table, profile, **wanted)
        return
    from nfbench.launch.reproduce import reproduce

    sys.exit(0 if reproduce(table, **wanted) else FAILED)


FOLLOWING = (status, cancel, logs, retry)
