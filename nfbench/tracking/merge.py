"""One log of all that the starts of a run have logged. Imports no torch.

Each start of a run writes a log of its own. W&B appends what is pushed to the rows that it has of
a run; those are left out of the merged log, so that no push leaves one there twice.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path
from typing import Any

from .log_file import STEP, Logged, framed, key_of, records

ENDS = ("exit", "preempting", "final", "footer")  # of a start, not of the run


def merge(logs: Sequence[Logged], n_there: int, folder: Path) -> Path:
    """Write a folder such as W&B's own into one, with one log of several, in order; its log.

    It goes on behind the first ``n_there`` rows, which W&B has.
    """
    place = folder / "offline-run"  # a name by which W&B knows what is to be pushed
    place.mkdir(parents=True)
    for logged in logs:
        if (files := logged.path.parent / "files").exists():
            shutil.copytree(files, place / "files", dirs_exist_ok=True)
    path = place / logs[-1].path.name
    path.write_bytes(framed(record.SerializeToString() for record in merged(logs, n_there)))
    return path


def merged(logs: Sequence[Logged], n_there: int) -> Iterator[Any]:
    """The records of some logs as those of one run without its first rows, numbered through.

    Rows are numbered from 0; W&B adds what it has.
    """
    number, step = 0, -n_there
    for record in of_one_run(logs):
        renumber(record, max(step, 0))
        if record.HasField("history"):
            step += 1
            if step <= 0:
                continue
        number += 1
        record.num = number
        yield record


def of_one_run(logs: Sequence[Logged]) -> Iterator[Any]:
    """The records of some logs, with one header, run and end, and no row twice.

    A start that was killed has logged steps behind its checkpoint, which the next one repeats.
    """
    for at, logged in enumerate(logs):
        repeated = min((first_step(later) for later in logs[at + 1 :]), default=inf)
        rows = iter(logged.history)
        for record in filter(None, records(logged.path)):
            kind = record.WhichOneof("record_type")
            if at > 0 and kind in ("header", "run"):
                continue
            if logged is not logs[-1] and kind in ENDS:
                continue
            if kind == "history" and next(rows).get(STEP, -inf) >= repeated:
                continue
            yield record


def first_step(logged: Logged) -> float:
    """The training step at which a start begins to log."""
    return min((row[STEP] for row in logged.history if STEP in row), default=inf)


def renumber(record: Any, step: int) -> None:
    """Give a row, or what a summary says of it, its number in the run."""
    items = []
    if record.HasField("history"):
        record.history.step.num = step
        items = record.history.item
    elif record.HasField("summary"):
        items = record.summary.update
    for item in items:
        if key_of(item) == "_step":
            item.value_json = json.dumps(step)
