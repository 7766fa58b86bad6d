"""What the records of a cell say beside the published number."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from nfbench.catalog import Column
from nfbench.conditions import alike
from nfbench.config import Experiment
from nfbench.errors import UsageError
from nfbench.outliers import outlier
from nfbench.record import Record
from nfbench.settings import hint

# A gap of exactly the tolerance, in decimals that binary numbers miss, is within it.
ROUNDING = 1e-9
# What an audit may find in float64: rounding, which deep flows magnify; and how much of the mass
# may lie beyond the square that is integrated over.
TOLERANCE, MASS_TOLERANCE = 1e-6, 0.05
SOLVER_ERROR = 100  # of an ODE: errors of many steps and dimensions, in relative tolerances
SOUND = "ok"


@dataclass(frozen=True)
class Audited:
    """What the audits of a cell's records found, the worst over the seeds.

    `log_det_error` is against autograd in float64 (none where that costs too much), `round_trip`
    in float32, `passes` those of the networks for a density and for a sample, `mass` the integral
    of a density of the plane, `distance` that of the samples' log-likelihoods from the data's.
    """

    finding: str
    log_det_error: float | None = None
    round_trip: float | None = None
    passes: tuple[int, int] | None = None
    mass: float | None = None
    distance: float | None = None


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
    fingerprints: Mapping[str, Mapping[str, str]],
    extra: Collection[str] = (),
) -> Entry:
    """The entry of one cell, from the records of all its seeds, with the further numbers named.

    Stale records count only where there is no other; a failed one gives no number, and is told.
    `fingerprints` are those known of a data set, by the source it is read from; what is not known
    is not judged.
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
        mean_error = None if seeds is None else multiple * seeds / sqrt(len(values))
        # An error that a single point makes reproduces nothing, however large it is.
        verdict = compare(experiment, column, ours, None if outliers else points, mean_error)
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
    """What a likelihood is, and of how many draws if the metric is importance-weighted."""
    kind = str(record.likelihood["kind"])
    return f"{kind} of {record.likelihood['draws']} draws" if name.endswith("_iw") else kind


def audited(records: Sequence[Record]) -> Audited:
    """The worst that the audits of some records found; not audited if one has no audit."""
    audits = [record.audit for record in records]
    if not all("log_det_error" in audit for audit in audits):
        return Audited("not audited")
    allowed = max(tolerance(record) for record in records)
    faults = [fault for audit in audits for fault in faults_of(audit, allowed)]
    log_det, round_trip = (
        worst(audits, key) for key in ("log_det_error", "round_trip_error_float32")
    )
    finding = ", ".join(dict.fromkeys(faults)) or SOUND
    masses = [audit["mass"] for audit in audits if audit.get("mass") is not None]
    mass = max(masses, key=lambda mass: abs(mass - 1), default=None)
    distance = worst(audits, "sample_calibration")
    return Audited(finding, log_det, round_trip, passes(records[0]), mass, distance)


def passes(record: Record) -> tuple[int, int]:
    """Passes of the networks for a density and for a sample: of ODEs the mean evaluations."""
    of_odes = [
        round(record.likelihood.get("odes", 0) * nfe(record).get(phase, 0))
        for phase in ("evaluation", "sampling")
    ]
    density, sample = record.audit["passes_per_log_prob"], record.audit["passes_per_sample"]
    return density + of_odes[0], sample + of_odes[1]


def tolerance(record: Record) -> float:
    """What an audit may find: rounding, or what the tolerances of all solves let through."""
    found, n_odes = record.likelihood.get("rtol", 0.0), record.likelihood.get("odes", 1)
    largest = max(found if isinstance(found, list) else [found])
    return max(TOLERANCE, SOLVER_ERROR * n_odes * largest)


def faults_of(audit: Mapping[str, Any], allowed: float) -> Iterator[str]:
    """What speaks against a model, by its audit; what is missing there was not looked at."""
    if audit.get("non_finite"):
        yield "not finite"
    if audit["log_det_error"] is None:
        yield "log-det not measured"
    elif audit["log_det_error"] > allowed:
        yield "log-det off"
    if (audit.get("base_log_prob_error") or 0.0) > allowed:
        yield "base density off"
    both_ways = [audit.get(key) or 0.0 for key in ("round_trip_error", "sample_log_prob_error")]
    if max(both_ways) > allowed:
        yield "inverse off"
    if audit.get("mass") is not None and abs(audit["mass"] - 1) > MASS_TOLERANCE:
        yield "mass off"
    if audit.get("non_finite_samples"):
        yield "samples not finite"
    if "sample_calibration" not in audit:
        yield "samples not looked at"


def worst(audits: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """The largest value of some audits; none if it was not measured."""
    found = [float(audit[key]) for audit in audits if audit.get(key) is not None]
    return max(found, default=None)


def compare(
    experiment: Experiment,
    column: Column,
    ours: float,
    points: float | None,
    mean_error: float | None,
) -> str:
    """`reproduced` within the largest +- or the equivalence band, else `better` or `short`.

    A difference that our mean over the seeds is no surer of (`mean_error`) is `inconclusive`, so
    that runs that scatter reproduce nothing. `measured` beside nothing.
    """
    if experiment.reported is None:
        return "measured"
    gain = ours - experiment.reported.value
    if column.direction == "lower":
        gain = -gain
    errors = experiment.reported.uncertainty, points, column.equivalence
    if abs(gain) <= max(error or 0.0 for error in errors) + ROUNDING:
        return "reproduced"
    if abs(gain) <= (mean_error or 0.0):
        return "inconclusive"
    return "better" if gain > 0 else "short"


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
        raise lacks(record, name, values)
    value = values.get(key)
    if isinstance(value, str):
        raise UsageError(f"{place(record)}: {name}: expected a number, got {value!r}")
    return None if value is None else float(value)


def nfe(record: Record) -> Mapping[str, float]:
    """Mean evaluations of the right-hand side for each solve; none of a model without ODEs."""
    return record.likelihood.get("nfe", {})


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
