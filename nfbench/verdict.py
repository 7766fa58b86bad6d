"""What the records of a cell say beside the published number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from nfbench.catalog import Column
from nfbench.config import Experiment
from nfbench.errors import UsageError
from nfbench.record import Record
from nfbench.settings import hint

ROUNDING = (
    1e-9  # a gap of exactly the tolerance, in decimals that binary numbers miss, is within it
)


@dataclass(frozen=True)
class Entry:
    """One cell of a row: our mean over seeds, what it is uncertain by, and the verdict.

    `points` is the +- over test points, `seeds` the standard deviation over the seeds (none for
    one seed), both in the unit of the column.
    """

    experiment: Experiment
    column: Column
    ours: float | None
    points: float | None
    seeds: float | None
    n_seeds: int
    likelihood: str
    verdict: str
    failures: tuple[str, ...] = ()

    @property
    def gap(self) -> float | None:
        """Ours less the paper's."""
        reported = self.experiment.reported
        return None if self.ours is None or reported is None else self.ours - reported.value


def judge(
    experiment: Experiment,
    column: Column,
    records: Sequence[Record],
    *,
    multiple: float,
    fingerprints: Mapping[str, Mapping[str, str]],
) -> Entry:
    """The entry of one cell, from the records of all its seeds.

    Stale records count only where there is no other; a failed one gives no number, and is told.
    `fingerprints` are those known of a data set, by the source it is read from; what is not known
    is not judged.
    """
    done = [r for r in records if r.status == "done"]
    failures = [r for r in records if r.status == "failed"]
    fresh = [r for r in done if not is_stale(r, experiment, fingerprints)]
    counted = fresh or done
    values = [metric(r, column.metric) for r in counted]
    errors = [e for r in counted if (e := r.metrics.get(f"{column.metric}_se")) is not None]
    ours = fmean(values) if values else None
    points = multiple * fmean(errors) if errors else None
    if ours is None:
        verdict = failed(failures[0]) if failures else "missing"
    elif not fresh:
        verdict = "stale"
    elif experiment.reduced or any(r.experiment["reduced"] for r in fresh):
        verdict = "reduced budget"
    else:
        verdict = compare(experiment, column, ours, points)
    return Entry(
        experiment=experiment,
        column=column,
        ours=ours,
        points=points,
        seeds=stdev(values) if len(values) > 1 else None,
        n_seeds=len(values),
        likelihood=", ".join(sorted({r.likelihood["kind"] for r in counted})),
        verdict=verdict,
        failures=tuple(f"seed {r.seed} {failed(r)}" for r in failures),
    )


def compare(experiment: Experiment, column: Column, ours: float, points: float | None) -> str:
    """Within the larger +- `reproduced`, else `better` or `short`; `measured` beside nothing."""
    if experiment.reported is None:
        return "measured"
    gain = ours - experiment.reported.value
    if column.direction == "lower":
        gain = -gain
    if abs(gain) <= max(experiment.reported.uncertainty or 0.0, points or 0.0) + ROUNDING:
        return "reproduced"
    return "better" if gain > 0 else "short"


def metric(record: Record, name: str) -> float:
    """One metric of a record.

    Raises:
        UsageError: the record has no metric of this name.
    """
    value = record.metrics.get(name)
    if value is None:
        place = f"{record.table}/{record.row}/{record.cell}/{record.seed}"
        raise UsageError(f"{place}: its record has no {name}{hint(name, record.metrics)}")
    return float(value)


def is_stale(
    record: Record, experiment: Experiment, fingerprints: Mapping[str, Mapping[str, str]]
) -> bool:
    """Whether the settings or the data are not today's."""
    known = fingerprints.get(experiment.data.name, {}).get(record.data["source"])
    return not experiment.matches(record) or (
        known is not None and record.data["fingerprint"] != known
    )


def failed(record: Record) -> str:
    """What a failed record says of itself: the kind of failure, and its step."""
    failure = record.failure or {}
    return f"failed: {failure.get('kind')} at step {failure.get('step')}"
