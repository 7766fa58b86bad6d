"""What the audits of a cell's records say, the worst over its seeds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nfbench.record import Record

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


def audited(records: Sequence[Record]) -> Audited:
    """The worst that the audits of some records found; not audited if one has no audit."""
    audits = [record.audit for record in records]
    if not all("log_det_error" in audit for audit in audits):
        return Audited("not audited")
    allowed = max(tolerance(record.likelihood) for record in records)
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


def tolerance(likelihood: Mapping[str, Any]) -> float:
    """What an audit may find: rounding, or what the tolerances of all solves let through."""
    found, n_odes = likelihood.get("rtol", 0.0), likelihood.get("odes", 1)
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


def judge(audit: Mapping[str, Any], likelihood: Mapping[str, Any]) -> Iterator[str]:
    """An audit in words: whether the density is what it claims to be, then whether it fits."""
    if "log_det_error" not in audit:
        yield "nothing to check, as the model has no flow"
        return
    allowed = tolerance(likelihood)
    faults = ", ".join(faults_of(audit, allowed))
    yield faults or (
        f"{SOUND}: log-determinant, base density and inverse within {allowed:g}, all finite"
    )
    distance, noise = audit.get("sample_calibration"), audit.get("sample_calibration_noise")
    if distance is not None and noise is not None:
        fits = "are like" if distance <= noise else "differ from"
        yield (
            f"samples {fits} the data by their log-likelihoods: {distance:.3f} apart, and by "
            f"chance more than {noise:.3f} in one of twenty cases"
        )


def worst(audits: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """The largest value of some audits; none if it was not measured."""
    found = [float(audit[key]) for audit in audits if audit.get(key) is not None]
    return max(found, default=None)


def nfe(record: Record) -> Mapping[str, float]:
    """Mean evaluations of the right-hand side for each solve; none of a model without ODEs."""
    return record.likelihood.get("nfe", {})
