"""Sweep files: which settings of a row are searched, where, and by what. Imports no torch."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from nfbench.config import Experiment, load, same_settings
from nfbench.errors import UsageError
from nfbench.record import find_root
from nfbench.settings import Level, fill, hint, read_yaml

SIX_DIGITS = ".6g"  # what a number drawn from a range is rounded to, so that a person can type it
# Likelihoods of other data do not compare, and nor do those that another objective validates by.
FIXED = ("data.name", "data.seed", "preprocess.bits", "training.objective")


@dataclass(frozen=True)
class Head:
    """The plain settings of a sweep; without `trials` a grid is searched whole."""

    title: str
    row: str
    cell: str
    sampler: Literal["grid", "random", "tpe"]
    seed: int = 0
    sampler_seed: int = 0
    trials: int | None = None


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included: on a log scale, or in steps."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    integer: bool = False

    def values(self) -> list[Any]:
        """All numbers of a range with steps."""
        assert self.step is not None
        n = math.floor((self.high - self.low) / self.step + 1e-9)
        return [self.rounded(self.low + i * self.step) for i in range(n + 1)]

    def rounded(self, value: float) -> float | int:
        """A number as it is written into an override; never outside the range."""
        if self.integer:
            return round(value)
        return min(max(float(format(value, SIX_DIGITS)), self.low), self.high)


Choices = tuple[str, ...]  # each as JSON
HEAD = [f.name for f in fields(Head)]
RANGE = [f.name for f in fields(Range) if f.name != "integer"]


@dataclass(frozen=True)
class Sweep:
    """A search over one cell of a row with one seed; `space` is key -> where it is searched."""

    name: str
    head: Head
    trials: int
    base: Experiment  # the cell with what the sweep fixes, and nothing searched
    space: Mapping[str, Choices | Range]
    root: Path

    @property
    def folder(self) -> Path:
        """Where its journal is."""
        return self.root / "runs" / "sweeps" / self.name

    @property
    def command(self) -> list[str]:
        """The words a person would type to run it."""
        return ["nfbench", "sweep", self.name]

    def words(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """Overrides of a run, from JSON of a choice or a number of a range for each setting."""
        words = list(self.base.overrides)
        for key, where in self.space.items():
            value = values[key]
            text = json.dumps(where.rounded(value)) if isinstance(where, Range) else value
            words.append(f"{key}={text}")
        return tuple(sorted(words))

    def experiment(self, words: Sequence[str]) -> Experiment:
        """The run with these overrides."""
        e = self.base
        return load(f"{e.table}/{e.row}", e.cell, e.seed, words, self.root)

    def identity(self) -> dict[str, Any]:
        """The section of a record on what was searched, as plain values."""
        space = {
            key: asdict(where) if isinstance(where, Range) else [json.loads(c) for c in where]
            for key, where in self.space.items()
        }
        return {"name": self.name, **asdict(self.head), "trials": self.trials, "space": space} | {
            "row": f"{self.base.table}/{self.base.row}",
            "base": self.base.identity(),
        }

    def matches(self, identity: Mapping[str, Any]) -> bool:
        """Whether a journal or a record is of this search, whatever its title."""
        ours, theirs = self.identity(), dict(identity)
        ours.pop("title"), theirs.pop("title", None)
        same = same_settings(theirs.pop("base"), ours.pop("base")["config"])
        return same and json.loads(json.dumps(ours)) == theirs


def sweep_names(root: Path | None = None) -> tuple[str, ...]:
    """Every sweep, sorted: the files of experiments/sweeps/."""
    files = ((root or find_root()) / "experiments" / "sweeps").glob("*.yaml")
    return tuple(sorted(file.stem for file in files))


def load_sweep(name: str, root: Path | None = None) -> Sweep:
    """Reads experiments/sweeps/<name>.yaml, and tries every end of the space on its row.

    Raises:
        UsageError: no such sweep, a key or a value that it cannot hold, or one that the row or
            the sampler cannot take.
    """
    root = root or find_root()
    if name not in (known := sweep_names(root)):
        raise UsageError(f"unknown sweep {name!r}{hint(name, known, 'sweeps')}")
    file = read_yaml(root / "experiments" / "sweeps" / f"{name}.yaml", root)
    file.check([*HEAD, "fixed", "space"])
    head = Head(**fill(Head, file.only(HEAD)))
    fixed, given = file.section("fixed"), file.section("space")
    words = [f"{key}={json.dumps(value)}" for key, value in fixed.values.items()]
    try:
        base = load(head.row, head.cell, head.seed, words, root)
    except UsageError as error:
        raise UsageError(f"{file.where}: {error}") from error
    space = {}
    for key in given.values:
        if key in fixed.values or key in FIXED:
            reason = "fixed above" if key in fixed.values else "its values do not compare"
            raise given.error(key, f"expected a setting to search; this one is not: {reason}")
        space[str(key)] = read_dimension(given, str(key), base, root)
    if head.sampler == "grid":
        space = {key: listed(given, key, where) for key, where in space.items()}
    if not space:
        raise file.error("space", "expected at least one section.key to search, got none")
    return Sweep(name, head, count_trials(file, head, space), base, space, root)


def read_dimension(given: Level, key: str, base: Experiment, root: Path) -> Choices | Range:
    """Where one setting is searched: a list of values, or a range of numbers."""
    value = given.values[key]
    if not isinstance(value, Mapping):
        if not isinstance(value, list) or not value:
            raise given.error(key, f"expected a list of values or {{low, high}}, got {value!r}")
        choices = tuple(json.dumps(resolved(given, key, each, base, root)) for each in value)
        if len(set(choices)) < len(choices):
            raise given.error(key, f"expected each value once, got {', '.join(choices)}")
        return choices
    section = Level(given.where, given.prefix, {key: value}).section(key)
    section.check(RANGE)
    found = fill(Range, section)
    ends = [resolved(given, key, value[end], base, root) for end in ("low", "high")]
    if any(isinstance(end, bool) or not isinstance(end, int | float) for end in ends):
        raise given.error(key, "expected a list of values: this setting is no number")
    place = Range(**found | {"integer": all(isinstance(end, int) for end in ends)})
    check_range(section, place)
    return place


def check_range(section: Level, place: Range) -> None:
    """Refuse a range without numbers in it, or with a scale and steps that do not go together."""
    if not place.low < place.high:
        raise section.error("high", f"expected more than low, {place.low:g}; got {place.high:g}")
    if place.log and place.low <= 0:
        raise section.error("low", f"expected more than 0 on a log scale, got {place.low:g}")
    if place.step is None:
        return
    if place.log:
        raise section.error("step", "expected none on a log scale; list the values instead")
    if not 0 < place.step <= place.high - place.low:
        most = place.high - place.low
        raise section.error("step", f"expected more than 0 and at most {most:g}, got {place.step}")
    if place.integer and place.step != int(place.step):
        raise section.error("step", f"expected a whole number, got {place.step}")


def resolved(given: Level, key: str, value: Any, base: Experiment, root: Path) -> Any:
    """A value as the row understands it.

    Raises:
        UsageError: the row has no such setting, or not this value.
    """
    section, _, name = key.partition(".")
    words = [*base.overrides, f"{key}={json.dumps(value)}"]
    try:
        tried = load(f"{base.table}/{base.row}", base.cell, base.seed, words, root)
    except UsageError as error:
        raise given.error(key, str(error).removeprefix("command line: ")) from error
    return tried.config()[section][name]


def listed(given: Level, key: str, where: Choices | Range) -> Choices:
    """All values of a dimension of a grid."""
    if not isinstance(where, Range):
        return where
    if where.step is None:
        raise given.error(key, "expected a list of values or a step, as the sampler is a grid")
    return tuple(json.dumps(value) for value in where.values())


def count_trials(file: Level, head: Head, space: Mapping[str, Choices | Range]) -> int:
    """How many trials there are: of a grid all, unless fewer are asked for."""
    if head.trials is not None and head.trials < 1:
        raise file.error("trials", f"expected at least 1, got {head.trials}")
    if head.sampler != "grid":
        if head.trials is None:
            raise file.error("trials", f"missing; the sampler {head.sampler} has no end")
        return head.trials
    n = math.prod(len(where) for where in space.values() if not isinstance(where, Range))
    if head.trials is not None and head.trials > n:
        raise file.error("trials", f"expected at most {n}, as the grid has; got {head.trials}")
    return n if head.trials is None else head.trials
