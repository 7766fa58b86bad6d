"""Two rows on the same test points: the difference of their log-likelihoods, point by point.

Points that are hard for one model are hard for the other, so that the difference of two means is
known better than either. Imports no torch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from scipy import stats

from nfbench.config import settings_of
from nfbench.errors import UsageError, elsewhere
from nfbench.record import Record, find_root, read, record_path, run_dir, run_names

CONFIDENCE = 0.95
FORM = "TABLE/ROW/CELL of one row and of another, or TABLE/ROW/CELL/SEED of one run"


@dataclass(frozen=True)
class Runs:
    """The finished runs of a cell: their records and log-likelihoods (seeds, n) in nats."""

    name: str
    records: tuple[Record, ...]
    values: np.ndarray

    @property
    def means(self) -> np.ndarray:
        """The mean over the test points, by seed."""
        return self.values.mean(1)


@dataclass(frozen=True)
class Comparison:
    """The first's log-likelihood less the second's, in nats, as means over seeds and points.

    `se` is the standard error over the test points of the paired differences, and `interval`
    that of 95 %; `unpaired_se` is what two independent test sets would give. `seeds_se` is the
    standard error over training runs, none unless both have two. `wins` is the part of the points
    that the first finds likelier.
    """

    first: Runs
    second: Runs
    difference: float
    se: float
    interval: tuple[float, float]
    unpaired_se: float
    seeds_se: float | None
    wins: float
    n: int


def compare(first: str, second: str, root: Path | None = None) -> Comparison:
    """Compares two cells by the test log-likelihoods that their runs have kept.

    Raises:
        UsageError: a target without finished runs, runs whose log-likelihoods are gone or of
            other weights, or data that are not the same.
    """
    root = root or find_root()
    one, other = find_runs(first, root), find_runs(second, root)
    check_same_data(one, other)
    paired = one.values.mean(0) - other.values.mean(0)
    n = len(paired)
    found = stats.ttest_1samp(paired, 0.0)
    low, high = found.confidence_interval(CONFIDENCE)
    return Comparison(
        first=one,
        second=other,
        difference=float(paired.mean()),
        se=float(stats.sem(paired)),
        interval=(float(low), float(high)),
        unpaired_se=math.hypot(*(stats.sem(each.values.mean(0)) for each in (one, other))),
        seeds_se=over_seeds(one.means, other.means),
        wins=float((paired > 0).mean()),
        n=n,
    )


def over_seeds(one: np.ndarray, other: np.ndarray) -> float | None:
    """The standard error of the difference of two means over runs; None for a single run."""
    if min(len(one), len(other)) < 2:
        return None
    return math.hypot(stats.sem(one), stats.sem(other))


def find_runs(target: str, root: Path) -> Runs:
    """The finished runs that a target names: one of a seed, or those of all seeds of a cell.

    Raises:
        UsageError: another target, or none that is finished.
    """
    names = run_names(target, root)
    if len(names) not in (3, 4):
        raise UsageError(f"compare: expected {FORM}, got {target!r}")
    table, row, cell, *seed = names
    folder = root / "results" / table / row / cell
    paths = [folder / f"{seed[0]}.json"] if seed else sorted(folder.glob("[0-9]*.json"))
    records = tuple(r for r in map(read, paths) if r.status == "done")
    if not records:
        place = folder.relative_to(root)
        raise UsageError(f"{target}: expected finished runs in {place}, got none; run it first")
    first, *others = [settings_of(each.experiment) for each in records]
    if any(other != first for other in others):
        raise UsageError(
            f"{target}: expected runs of the same settings, got several; name one by its seed, or "
            f"move the stale ones away from {folder.relative_to(root)}"
        )
    values = np.stack([log_likelihoods(each, root) for each in records])
    return Runs("/".join(names), records, values)


def log_likelihoods(record: Record, root: Path) -> np.ndarray:
    """The log-likelihood (n,) of each test point in nats, as the run of a record kept them.

    Raises:
        UsageError: they are gone, or not those of the record.
    """
    path = run_dir(record, root) / "test_log_prob.npz"
    place = path.relative_to(root)
    if not path.is_file():
        kept = record_path(record, root)
        raise UsageError(
            f"{place}: expected the log-likelihoods of a record, got no such file; "
            f"{elsewhere(kept.relative_to(root), record.provenance['command'])}"
        )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            values = arrays["log_prob"].astype(np.float64)
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise UsageError(f"{place}: expected log-likelihoods, got {error}") from error
    n, mean = record.metrics["test/n"], record.metrics["test/log_likelihood"]
    if len(values) != n or not math.isclose(values.mean(), mean, rel_tol=1e-5, abs_tol=1e-5):
        raise UsageError(
            f"{place}: expected {n} log-likelihoods of mean {mean:.6g}, as its record has, got "
            f"{len(values)} of mean {values.mean():.6g}"
        )
    return values


def check_same_data(one: Runs, other: Runs) -> None:
    """Refuses to compare what was not tested on the same points of the same data."""
    for key in ("fingerprint", "n_test"):
        found = {each.data[key] for runs in (one, other) for each in runs.records}
        if len(found) > 1:
            raise UsageError(
                f"{one.name} and {other.name}: expected runs on the same data, got several "
                f"values of {key}: {', '.join(sorted(map(str, found)))}"
            )
    bits = {bits_of(each) for runs in (one, other) for each in runs.records}
    if len(bits) > 1:
        raise UsageError(
            f"{one.name} and {other.name}: expected the same preprocess.bits, got "
            f"{', '.join(map(str, sorted(bits, key=str)))}"
        )


def bits_of(record: Record) -> object:
    """What decides, beside the data, of which numbers a likelihood is."""
    return settings_of(record.experiment).get("preprocess", {}).get("bits")


def lines(found: Comparison) -> Sequence[str]:
    """A comparison in words."""
    low, high = found.interval
    first, second = kinds(found.first), kinds(found.second)
    said = [
        f"{found.first.name}: {spread(found.first)}",
        f"{found.second.name}: {spread(found.second)}",
        f"difference: {found.difference:+.4f} nats, standard error {found.se:.4f} over {found.n} "
        f"test points, paired ({found.unpaired_se:.4f} unpaired), 95 % from {low:+.4f} to "
        f"{high:+.4f}; the first is likelier at {found.wins:.1%} of the points",
    ]
    if found.seeds_se is not None:
        said.append(f"over training runs: standard error {found.seeds_se:.4f}")
    else:
        said.append(
            "over training runs: not known, as that takes two seeds of each; the interval is over "
            "test points, for these weights alone"
        )
    if first != second:
        said.append(f"the first's likelihood is {first}, the second's {second}")
    return said


def kinds(runs: Runs) -> str:
    """What the likelihoods of some runs are."""
    return ", ".join(sorted({each.likelihood["kind"] for each in runs.records}))


def spread(runs: Runs) -> str:
    """The mean of some runs, and how far they are apart."""
    means = runs.means
    text = f"{means.mean():.4f} nats"
    if reduced := runs.records[0].experiment["reduced"]:
        text += f" (reduced budget: {reduced})"
    if len(means) == 1:
        return f"{text}, seed {runs.records[0].seed}"
    return f"{text}, standard deviation {means.std(ddof=1):.4f} over {len(means)} seeds"
