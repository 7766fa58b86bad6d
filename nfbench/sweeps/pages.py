"""The page of a sweep, rendered from its record and never typed. Imports no torch."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tabulate import tabulate

from nfbench import record
from nfbench.catalog import Column, Table, load_table
from nfbench.record import Record, find_root, write_atomic
from nfbench.rendering import compare

from .figure import draw
from .result import FAILED, Result, read, result_path

SHOWN = 10  # trials on the page; the record has all


def render(name: str, root: Path | None = None) -> Path:
    """Writes results/sweeps/<name>.md and its figure beside the record."""
    path = result_path(name, root)
    found = read(path)
    draw(found, path.with_suffix(".png"))
    write_atomic(path.with_suffix(".md"), markdown(found, root or find_root()))
    return path.with_suffix(".md")


def check(name: str, root: Path | None = None) -> None:
    """Compares results/sweeps/<name>.md with what the records give.

    Raises:
        UsageError: they differ, or there is no such file; the message is the difference.
    """
    root = root or find_root()
    path = result_path(name, root)
    today = markdown(read(path), root)
    compare(path.with_suffix(".md"), today, root, f"nfbench sweep {name}")


def markdown(found: Result, root: Path) -> str:
    """What was searched and how, the best trials, those that failed, the winner and its test."""
    sweep = found.sweep
    table = load_table(found.run.table, root)
    heading = table.columns[found.run.cell].heading
    blocks = [
        f"# {sweep['title']}",
        f"A search over settings of `{sweep['row']}` on {heading} (`{sweep['cell']}`), seed "
        f"{sweep['seed']}: {sweep['trials']} trials by {sampler_of(sweep)}. The best validation "
        "log-likelihood, in nats, selects; the test split is evaluated once, for the winner.",
        grid([[f"`{key}`", words(where)] for key, where in sweep["space"].items()], "searched in"),
        fixed(sweep),
        grid(list(best(found)), *[f"`{key}`" for key in sweep["space"]], *NUMBERS, first="trial"),
        "\n".join(counts(found)),
        f"![Validation of each trial]({found.name}.png)",
        f"The winner, trial {found.winner}, beside the row itself:",
        grid(list(tests(found, table, root)), *test_heading(table, found), first=""),
        f"    {found.run.provenance['command']}",
        f"Rendered from the records by `nfbench sweep {found.name}`.",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


NUMBERS = ("validation", "best step", "seconds")


def grid(rows: list[list[str]], *headings: str, first: str = "setting") -> str:
    """A table of Markdown, its first column on the left."""
    align = ["left", *["right"] * len(headings)]
    return tabulate(
        rows, [first, *headings], "github", colalign=align if rows else None, disable_numparse=True
    )


def sampler_of(sweep: dict[str, Any]) -> str:
    """The sampler in words."""
    names = {"grid": "a grid", "random": "random search", "tpe": "TPE"}
    return f"{names[sweep['sampler']]} (seed {sweep['sampler_seed']})"


def words(where: Any) -> str:
    """Where a setting is searched, in words."""
    if isinstance(where, list):
        return ", ".join(json.dumps(value) for value in where)
    scale = " on a log scale" if where["log"] else ""
    steps = f" in steps of {where['step']:g}" if where["step"] else ""
    return f"{where['low']:g} to {where['high']:g}{scale}{steps}"


def fixed(sweep: dict[str, Any]) -> str:
    """What every trial has in the place of the row's own setting."""
    overrides = ", ".join(f"`{word}`" for word in sweep["base"]["overrides"])
    return f"In every trial: {overrides}." if overrides else ""


def best(found: Result) -> Iterator[list[str]]:
    """The best trials, as texts: number, settings, validation, its step and seconds."""
    done = [trial for trial in found.trials if trial["state"] != FAILED]
    for trial in sorted(done, key=lambda trial: (-trial["value"], trial["number"]))[:SHOWN]:
        values = dict(word.split("=", 1) for word in trial["overrides"])
        settings = [values[key] for key in found.sweep["space"]]
        again = trial["same_as"]
        seconds = f"{trial['seconds']:.1f}" if again is None else f"as trial {again}"
        yield [
            str(trial["number"]),
            *settings,
            f"{trial['value']:.4f}",
            str(trial["step"]),
            seconds,
        ]


def counts(found: Result) -> Iterator[str]:
    """How many trials there are, and why some have no number."""
    failed = [trial for trial in found.trials if trial["state"] == FAILED]
    again = sum(trial["same_as"] is not None for trial in found.trials)
    total = len(found.trials)
    shown = min(SHOWN, total - len(failed))
    line = f"The best {shown} of {total} trials" if shown < total else f"All {total} trials"
    line += f", {again} with settings that an earlier one had" if again else ""
    yield f"{line}; {len(failed)} failed{':' if failed else '.'}"
    if failed:
        yield ""
    for trial in failed:
        yield f"- trial {trial['number']} ({', '.join(trial['overrides'])}): {trial['reason']}"


def test_heading(table: Table, found: Result) -> tuple[str, str, str]:
    """The headings of the numbers of a run."""
    column = table.columns[found.run.cell]
    return "validation, nats", f"{column.metric}, {column.unit}", "±"


def tests(found: Result, table: Table, root: Path) -> Iterator[list[str]]:
    """The winner's test and the row's own, in the table's metric.

    Records that are not kept in git are left out, so that the page is the same everywhere.
    """
    column = table.columns[found.run.cell]
    label = f"winner, trial {found.winner}"
    yield [label, *numbers(found.run, column, table.ours_multiple)]
    if not table.committed:
        return
    run = found.run
    path = root / "results" / run.table / run.row / run.cell / f"{run.seed}.json"
    label = f"`{run.table}/{run.row}`"
    if path.exists():
        yield [label, *numbers(record.read(path), column, table.ours_multiple)]
    else:
        yield [label, "no record", "", ""]


def numbers(run: Record, column: Column, multiple: float) -> list[str]:
    """Validation, metric and its uncertainty, as texts."""
    if run.failure:
        return [f"failed: {run.failure['kind']}", "", ""]
    name = column.metric.removeprefix("-")
    value, error = run.metrics[name], run.metrics.get(f"{name}_se")
    value = -value if column.metric.startswith("-") else value
    places = column.decimals
    return [
        f"{run.metrics['val/log_likelihood']:.4f}",
        f"{value:.{places}f}",
        "" if error is None else f"{multiple * error:.{places}f}",
    ]
