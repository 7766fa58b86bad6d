"""The leaderboard in W&B: a versioned table for each published table, from the records.

What has not changed makes no new version. Imports no torch.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from nfbench import leaderboard, tables
from nfbench.console import new_console
from nfbench.errors import UsageError
from nfbench.leaderboard import Line
from nfbench.record import Record, find_root
from nfbench.tables import View

from .identity import PROJECT, run_id
from .mode import SETTINGS, obstacle

KIND = "leaderboard"  # the id of the run, and the type of run and artifacts
SECONDS = 120  # for W&B to take an artifact
WIDE = 160  # characters


def push(
    names: Sequence[str] = (),
    *,
    every: bool = False,
    dry_run: bool = False,
    project: str = PROJECT,
    entity: str | None = None,
    root: Path | None = None,
    console: Console | None = None,
) -> None:
    """Push the leaderboard of some tables, or of all with a published number; or only print it.

    Raises:
        UsageError: an unknown table, no records, no key, or a server that does not answer.
    """
    root, console = root or find_root(), console or new_console()
    if not dry_run and (reason := obstacle()):
        raise UsageError(f"leaderboard push: nothing was pushed, as {reason}")
    found = leaderboard.views(names, every=every, root=root)
    if dry_run:
        if not console.is_terminal:  # a file or a pipe has room
            console.width = WIDE
        for view in found:
            lines = leaderboard.lines(view, leaderboard.place)
            console.print(leaderboard.terminal(view, lines))
        return
    import wandb

    try:
        publish(found, project, entity, console)
    except (wandb.errors.Error, ValueError, TimeoutError) as error:
        said = " ".join(str(error).split())
        raise UsageError(f"leaderboard push: W&B refused: {said}") from error


def publish(views: Sequence[View], project: str, owner: str | None, console: Console) -> None:
    """Log an artifact for each table, with the numbers for charts, and write the reports."""
    import wandb

    from .report import write_report

    with tempfile.TemporaryDirectory() as folder:
        run = wandb.init(
            project=project,
            entity=owner,
            id=KIND,
            name=KIND,
            job_type=KIND,
            mode="online",  # whatever WANDB_MODE says of runs
            resume="allow",
            reinit="create_new",
            dir=folder,
            settings=wandb.Settings(**SETTINGS),
        )
        with run:
            entity = str(run.entity)
            link = links(f"{entity}/{project}")
            for view in views:
                lines = leaderboard.lines(view, link)
                logged = run.log_artifact(artifact(view, lines, Path(folder))).wait(SECONDS)
                run.summary.update(dict(leaderboard.scalars(lines)))
                tell(console, view, logged.qualified_name)
    for view in views:
        tell(console, view, write_report(view, entity, project))


def tell(console: Console, view: View, text: str) -> None:
    """Print a line about a table, on one line and as it is."""
    console.print(f"{view.table.name}: {text}", soft_wrap=True, markup=False, highlight=False)


def links(path: str) -> Callable[[Record], str]:
    """Where a record's run is: its address in W&B where it is there, else its folder."""
    import wandb

    try:
        known = {run.id: run.url for run in wandb.Api().runs(path, per_page=1000)}
    except ValueError:  # there is no such project yet
        known = {}

    def link(record: Record) -> str:
        name = run_id(record, record.experiment["config_hash"])
        return known.get(name) or leaderboard.place(record)

    return link


def artifact(view: View, lines: Sequence[Line], folder: Path) -> Any:
    """The table of some lines, with them as CSV and JSON and the rendered page beside it."""
    import wandb

    columns = list(lines[0])
    found = wandb.Artifact(f"leaderboard-{view.table.name}", type=KIND)
    rows = [list(line.values()) for line in lines]
    found.add(wandb.Table(columns=[*columns], data=rows), "table")
    texts = {
        "lines.json": json.dumps(lines, indent=1) + "\n",
        "table.csv": tables.csv_text(view),
        "table.md": tables.markdown(view),
    }
    for name, text in texts.items():
        path = folder / name
        path.write_text(text)
        found.add_file(str(path), name=name)
    return found
