"""The figure of a sweep: how validation went, and against each setting. Imports no torch."""

import json
from itertools import accumulate
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nfbench.figures import FRAME, LABEL, TITLE, save

from .result import DONE, Result

PANEL = 2.4  # inches
COLUMNS = 4
LOWEST = 10  # per cent of the trials whose validation may be below the panels


def draw(found: Result, path: Path) -> Path:
    """Validation in the order of the trials, then against each setting; the winner is red."""
    done = [trial for trial in found.trials if trial["state"] == DONE]
    space = found.sweep["space"]
    n_columns = min(COLUMNS, 1 + len(space))
    n_rows = -(-(1 + len(space)) // n_columns)
    size = (PANEL * n_columns, PANEL * n_rows)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True).flat
    values = np.array([trial["value"] for trial in done])
    won = np.array([trial["number"] == found.winner for trial in done])
    draw_history(next(panels), found, values, won)
    for key, where in space.items():
        axis = next(panels)
        axis.set_xlabel(key, fontsize=LABEL, labelpad=1)
        draw_setting(axis, where, [setting(trial, key) for trial in done], values, won)
    for axis in panels:
        axis.remove()
    return save(figure, path, dpi=150)


def setting(trial: dict[str, Any], key: str) -> Any:
    """The value that a trial has of a setting."""
    return json.loads(dict(word.split("=", 1) for word in trial["overrides"])[key])


def draw_history(axis: Axes, found: Result, values: np.ndarray, won: np.ndarray) -> None:
    """Validation of each trial, the best so far, and a cross for each that failed."""
    numbers = [trial["number"] for trial in found.trials if trial["state"] == DONE]
    failed = [trial["number"] for trial in found.trials if trial["state"] != DONE]
    best = accumulate((-inf if t["value"] is None else t["value"] for t in found.trials), max)
    axis.step(range(len(found.trials)), list(best), where="post", color="tab:blue", linewidth=1)
    draw_values(axis, np.array(numbers), values, won)
    axis.plot(failed, [0.02] * len(failed), "x", transform=axis.get_xaxis_transform(), color="0.4")
    axis.legend(
        [*axis.collections, axis.lines[0]],
        ["trial", "winner", "best so far"],
        fontsize=LABEL,
        loc="lower right",
        frameon=False,
    )
    low, high = np.percentile(values, LOWEST), values.max()
    margin = 0.06 * (high - low) or 1.0
    axis.set_ylim(max(values.min(), low - (high - low)) - margin, high + margin)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("trial" + (", × failed" if failed else ""), fontsize=LABEL, labelpad=1)
    axis.set_title("best validation, nats", fontsize=TITLE, loc="left")


def draw_setting(
    axis: Axes, where: Any, settings: list[Any], values: np.ndarray, won: np.ndarray
) -> None:
    """Validation against a setting: on its scale, or beside one another where it is a list."""
    if isinstance(where, dict):
        draw_values(axis, np.array(settings), values, won)
        if where["log"]:
            axis.set_xscale("log")
        elif where["integer"]:
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        return
    draw_values(axis, np.array([where.index(each) for each in settings]), values, won)
    axis.set_xlim(-0.5, len(where) - 0.5)
    labels = [each if isinstance(each, str) else json.dumps(each) for each in where]
    axis.set_xticks(range(len(where)), labels)


def draw_values(axis: Axes, x: np.ndarray, values: np.ndarray, won: np.ndarray) -> None:
    """A dot for each trial, the winner's in red on top, in thin axes."""
    axis.scatter(x[~won], values[~won], s=12, color="0.5", alpha=0.8, linewidths=0)
    axis.scatter(x[won], values[won], s=20, color="tab:red", linewidths=0, zorder=3)
    axis.tick_params(which="both", labelsize=LABEL, length=2)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[:].set(color=FRAME)
