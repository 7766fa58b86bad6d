"""A W&B report for a table: ours beside the published numbers, the page, and the runs.

Imports no torch.
"""

from importlib import import_module
from typing import Any

from nfbench import leaderboard, tables
from nfbench.leaderboard import Line
from nfbench.tables import View

MISSING = "no report, as wandb-workspaces is missing: pip install 'nfbench[reports]'"
LONGEST_TITLE = 128


def write_report(view: View, entity: str, project: str) -> str:
    """Write the report of a table over the one with its title, if there is one; its address."""
    try:
        reports = import_module("wandb_workspaces.reports.v2")
    except ImportError:
        return MISSING
    import wandb

    title = f"Leaderboard: {view.table.title}"[:LONGEST_TITLE]
    report = reports.Report(project=project, entity=entity, title=title, width="fluid")
    report.blocks = blocks(reports, view, entity, project)
    for each in wandb.Api().reports(f"{entity}/{project}"):
        if each.display_name == title:
            report.id = each.id
    report.save()
    return str(report.url)


def blocks(reports: Any, view: View, entity: str, project: str) -> list[Any]:
    """The charts of the table's columns, its page, and the runs, whose seeds are grouped."""
    name = view.table.name
    lines = leaderboard.lines(view, leaderboard.place)
    board = reports.Runset(entity, project, "leaderboard", filters="JobType = 'leaderboard'")
    runs = reports.Runset(
        entity, project, name, filters=f"Config('table') = '{name}'", groupby=["group"]
    )
    curve = reports.LinePlot(
        title="validation log-likelihood (nats)",
        x="trainer/global_step",
        y=["val/log_likelihood"],
        groupby="Group",
    )
    bars = charts(reports, view, lines)
    return [
        *([reports.PanelGrid(runsets=[board], panels=bars)] if bars else []),
        reports.MarkdownBlock(tables.markdown(view)),
        reports.PanelGrid(runsets=[runs], panels=[curve]),
    ]


def charts(reports: Any, view: View, lines: list[Line]) -> list[Any]:
    """A chart of bars for each column with a number of ours: ours and the published ones."""
    found = []
    for cell, column in view.table.columns.items():
        ours = [line for line in lines if line["data"] == cell and line["ours"] is not None]
        names = [name for name, _ in leaderboard.scalars(ours) if not name.endswith("/gap")]
        if names:
            title = f"{column.heading} ({column.unit}, {column.direction} is better)"
            found.append(reports.BarPlot(title=title, metrics=names))
    return found
