"""The record of a sweep, results/sweeps/<name>.json: every trial, and the test of the winner.

Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from nfbench.errors import UsageError, check_keys, expect
from nfbench.record import Record, check_address, check_seal, find_root, write_atomic
from nfbench.seal import sealed_text, values_of

from .space import Sweep

VERSION = 1
DONE, FAILED = "done", "failed"
KEYS = {
    "sweep": "name title row cell seed sampler sampler_seed trials space base",
    "trial": "number overrides state value step steps stop_reason seconds reason same_as device"
    " git dirty",
    "provenance": "git dirty versions devices command started finished seconds",
}


@dataclass(frozen=True)
class Result:
    """What a sweep gave. The winner has the best validation; its record alone has a test.

    Raises:
        UsageError: a section or a value that it cannot hold, or a winner that is not the best.
    """

    sweep: dict[str, Any]
    trials: list[dict[str, Any]]
    winner: int
    record: dict[str, Any]
    provenance: dict[str, Any]
    version: int = VERSION

    def __post_init__(self) -> None:
        expect(self.version == VERSION, f"version: expected {VERSION}, got {self.version!r}")
        check_keys("sweep", self.sweep, KEYS["sweep"])
        check_keys("provenance", self.provenance, KEYS["provenance"])
        expect(isinstance(self.trials, list), "trials: expected a list")
        for number, trial in enumerate(self.trials):
            check_keys(f"trials[{number}]", trial, KEYS["trial"])
            check_trial(number, trial)
        count = self.sweep["trials"]
        expect(len(self.trials) == count, f"trials: expected {count}, got {len(self.trials)}")
        best = best_of(self.trials)
        expect(self.winner == best, f"winner: expected {best}, the best, got {self.winner!r}")
        self._check_winner()

    def _check_winner(self) -> None:
        found, sweep = self.run, self.sweep
        ours = (sweep["row"], sweep["cell"], sweep["seed"])
        theirs = (f"{found.table}/{found.row}", found.cell, found.seed)
        expect(ours == theirs, f"record: expected one of {ours}, got one of {theirs}")
        overrides = self.trials[self.winner]["overrides"]
        expect(list(found.overrides) == overrides, "record: its overrides are not the winner's")

    @cached_property
    def run(self) -> Record:
        """The record of the winner's run."""
        expect(isinstance(self.record, dict), "record: expected an object")
        wrong = set(self.record) ^ {field.name for field in fields(Record)}
        expect(not wrong, f"record: missing or unknown sections {sorted(wrong)}")
        record = Record(**self.record)
        check_address(record)
        return record

    @property
    def name(self) -> str:
        """The sweep's name."""
        return str(self.sweep["name"])


def check_trial(number: int, trial: Mapping[str, Any]) -> None:
    """Raises `UsageError` unless a trial has its number, and a value or a reason for none."""
    place = f"trials[{number}]"
    expect(trial["number"] == number, f"{place}.number: got {trial['number']!r}")
    value, done = trial["value"], trial["state"] == DONE
    expect(done or trial["state"] == FAILED, f"{place}.state: got {trial['state']!r}")
    expect(isinstance(value, float) == done, f"{place}.value: got {value!r} of {trial['state']}")
    expect((trial["reason"] is None) == done, f"{place}.reason: got {trial['reason']!r}")


def best_of(trials: list[dict[str, Any]]) -> int | None:
    """The number of the first trial with the best validation; None if all failed."""
    done = [trial for trial in trials if trial["state"] == DONE]
    return max(done, key=lambda trial: trial["value"])["number"] if done else None


def result_path(name: str, root: Path | None = None) -> Path:
    """Where the record of a sweep stands."""
    return (root or find_root()) / "results" / "sweeps" / f"{name}.json"


def write(result: Result, root: Path | None = None) -> Path:
    """Writes the record of a sweep to its place, once.

    Raises:
        UsageError: there is one, or a value is not JSON.
    """
    path = result_path(result.name, root)
    if path.exists():
        raise UsageError(f"{path}: a record stands here; move it away to search again")
    try:
        text = sealed_text(asdict(result))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}: {error}") from error
    write_atomic(path, text)
    return path


def read(path: Path) -> Result:
    """Reads the record of a sweep, strictly.

    Raises:
        UsageError: no such file, not JSON, a missing or unknown key, a number that is none, a
            winner that is not the best, or a content that belongs to another path or was changed
            since it was written.
    """
    try:
        values = values_of(path)
        wrong = set(values) ^ {"sha256", *(field.name for field in fields(Result))}
        expect(not wrong, f"missing or unknown sections: {', '.join(sorted(wrong))}")
        sealed = values.pop("sha256")
        result = Result(**values)
        expect(path.stem == result.name, f"its content is of the sweep {result.name}")
        check_seal(sealed, values)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())}") from error
    return result


def recorded(root: Path | None = None) -> list[str]:
    """The names of the sweeps that have a record, sorted; no file still being written."""
    folder = result_path("any", root).parent
    return sorted(path.stem for path in folder.glob("[!.]*.json"))


def finished(sweep: Sweep) -> bool:
    """Whether the record of the sweep is there.

    Raises:
        UsageError: it is of other settings.
    """
    path = result_path(sweep.name, sweep.root)
    if not path.exists():
        return False
    if not sweep.matches(read(path).sweep):
        raise UsageError(
            f"{path}: a record of other settings, as the sweep or its row has changed since; "
            f"move it and {sweep.folder} away to search again"
        )
    return True
