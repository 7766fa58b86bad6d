"""What the records of a cell say beside the published number."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import hypot, sqrt
from statistics import fmean, stdev

from nfbench.catalog import Column
from nfbench.conditions import alike
from nfbench.config import Experiment
from nfbench.errors import UsageError
from nfbench.outliers import outlier
from nfbench.record import Record
from nfbench.settings import hint
from nfbench.soundness import Audited, audited, nfe

# A gap of exactly the tolerance, in decimals that binary numbers miss, is within it.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Entry:
    """One cell of a row: our mean over seeds, what it is uncertain by, and the verdict.

    `points` is the +- over test points, `seeds` the standard deviation over the seeds (none for
    one seed), both in the unit of the column; `outliers` says of which seeds a single test point
    carries the mean; `extra` the means of further numbers, none where no
    record has them. `records` are those that our number is of.
    """

    experiment: Experiment
    column: Column
    ours: float | None
    points: float | None
    seeds: float | None
    n_seeds: int
    likelihood: str
    verdict: str
    audited: Audited | None = None
    failures: tuple[str, ...] = ()
    outliers: tuple[str, ...] = ()
    extra: Mapping[str, float | None] = field(default_factory=dict)
    records: tuple[Record, ...] = ()

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
    same_points: bool = False,
    fingerprints: Mapping[str, Mapping[str, str]],
    extra: Collection[str] = (),
) -> Entry:
    """The entry of one cell, from the records of all its seeds, with the further numbers named.

    Stale records count only where there is no other; a failed one gives no number, and is told.
    `fingerprints` are those known of a data set, by the source it is read from; what is not known
    is not judged. Our +- over `same_points` as the paper's is shown, and no error of the gap.
    """
    done = [r for r in records if r.status == "done"]
    failures = [r for r in records if r.status == "failed"]
    fresh = [r for r in done if not is_stale(r, experiment, fingerprints)]
    counted = fresh or done
    values = [metric(r, column.metric) for r in counted]
    error = f"{column.metric.removeprefix('-')}_se"
    errors = [e for r in counted if (e := r.metrics.get(error)) is not None]
    ours = fmean(values) if values else None
    points = multiple * fmean(errors) if errors else None
    seeds = stdev(values) if len(values) > 1 else None
    outliers = tuple(filter(None, map(outlier, counted)))
    if ours is None:
        verdict = failed(failures[0]) if failures else "missing"
    elif not fresh:
        verdict = "stale"
    elif experiment.reduced or any(r.experiment["reduced"] for r in fresh):
        verdict = "reduced budget"
    else:
        # An error that a single point makes reproduces nothing, however large it is.
        error_of_points = 0.0 if outliers or same_points or points is None else points
        verdict = compare(experiment, column, ours, error_of_points, mean_error(values))
    return Entry(
        experiment=experiment,
        column=column,
        ours=ours,
        points=points,
        seeds=seeds,
        n_seeds=len(values),
        likelihood=", ".join(sorted({claim(r, column.metric) for r in counted})),
        verdict=verdict,
        audited=audited(counted) if counted else None,
        failures=tuple(f"seed {r.seed} {failed(r)}" for r in failures),
        outliers=outliers,
        extra={name: mean_of(counted, name) for name in extra},
        records=tuple(counted),
    )


def claim(record: Record, name: str) -> str:
    """What a likelihood is, and of how many draws if the metric is importance-weighted.

    Of dequantized data the density at the point that noise has made is no bound, but exact.
    """
    kind = str(record.likelihood["kind"])
    if name.endswith("/log_density") and "draws" not in record.likelihood:
        return "exact or estimate" if "odes" in record.likelihood else "exact"
    return f"{kind} of {record.likelihood['draws']} draws" if name.endswith("_iw") else kind


def compare(
    experiment: Experiment,
    column: Column,
    ours: float,
    points: float,
    of_mean: float,
) -> str:
    """`reproduced` within the combined +- or the equivalence band, else `better` or `short`.

    Combined is the root of the sum of squares of the paper's +- and ours over the test points, as
    of independent errors. A difference within that of these and of our mean over the seeds
    (`of_mean`) is `inconclusive`. `measured` beside nothing.
    """
    if experiment.reported is None:
        return "measured"
    gain = ours - experiment.reported.value
    if column.direction == "lower":
        gain = -gain
    combined = hypot(experiment.reported.uncertainty or 0.0, points)
    if abs(gain) <= max(combined, column.equivalence) + ROUNDING:
        return "reproduced"
    if abs(gain) <= hypot(combined, of_mean):
        return "inconclusive"
    return "better" if gain > 0 else "short"


def mean_error(values: Sequence[float]) -> float:
    """What the mean over the seeds may be off by, 95 % of Student's t; 0 of one seed."""
    if len(values) < 2:
        return 0.0
    from scipy.special import stdtrit  # Slow to import, and most tables have one seed.

    return float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / sqrt(len(values))


def metric(record: Record, name: str) -> float:
    """One metric of a record, with its sign turned if the name has a minus before it.

    Raises:
        UsageError: the record has no metric of this name.
    """
    key = name.removeprefix("-")
    value = record.metrics.get(key)
    if value is None:
        raise lacks(record, key, record.metrics)
    return -float(value) if name.startswith("-") else float(value)


def lacks(record: Record, name: str, known: Collection[str]) -> UsageError:
    """An error to raise where a record has no number of a name."""
    where = "a column's metric stands in the table.yaml"
    return UsageError(f"{place(record)}: its record has no {name}{hint(name, known)}; {where}")


def place(record: Record) -> str:
    """Where a record belongs, in words."""
    return f"{record.table}/{record.row}/{record.cell}/{record.seed}"


def mean_of(records: Sequence[Record], name: str) -> float | None:
    """The mean of a further number over those of some records that have it; none if none has.

    One of the speed is only over those that were measured alike.
    """
    section, _, key = name.removeprefix("-").partition("/")
    if section == "speed":
        _, records = alike(records, key)
    found = [further(record, name) for record in records]
    return fmean(known) if (known := [value for value in found if value is not None]) else None


def further(record: Record, name: str) -> float | None:
    """A metric of a record, or a number of its speed, model, nfe or provenance; none where none.

    A minus before the name turns the sign.

    Raises:
        UsageError: the record has no number of this name.
    """
    if name.startswith("-"):
        value = further(record, name[1:])
        return None if value is None else -value
    section, _, key = name.partition("/")
    values = {
        "speed": record.speed,
        "model": record.model,
        "nfe": nfe(record),
        "provenance": record.provenance,
    }.get(section)
    if values is None:
        values, key = record.metrics, name
    # Of these any may have failed to be measured, and most flows have no nfe.
    if key not in values and section not in ("speed", "nfe"):
        raise lacks(record, name, [name.removesuffix(key) + each for each in values])
    value = values.get(key)
    if isinstance(value, str):
        raise UsageError(f"{place(record)}: {name}: expected a number, got {value!r}")
    return None if value is None else float(value)


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
