"""Test points that carry the mean of a record all alone. Imports no torch."""

from collections.abc import Iterable

from nfbench.record import Record

FEW_POINTS = 100  # of which one is a part of the mean that nobody need be told of


def outlier(record: Record) -> str:
    """What a single test point does to the mean, if it moves that by more than half its error.

    The standard error then tells of this point alone: a mean of n values cannot be off by more for
    one of them than its own standard error. Of preprocessed data the mean is of the density of
    what the flow is given; the log-determinant of one point is nothing beside what is far out.
    """
    mean, se, least, n = (
        record.metrics.get(f"test/{key}")
        for key in ("log_likelihood", "log_likelihood_se", "log_likelihood_min", "n")
    )
    if mean is None or se is None or least is None or n is None or n < FEW_POINTS:
        return ""
    shift = (mean - least) / (n - 1)
    if shift <= se / 2:
        return ""
    density = record.metrics.get("test/log_density")
    without = (mean if density is None else density) + shift
    told = f"without it the mean of seed {record.seed} is {without:.3f} nats"
    return f"one test point of {int(n):,} has {least:.3g} nats; {told}"


def unseen(records: Iterable[Record]) -> list[str]:
    """Of which seeds nothing is known of the least likely test point."""
    seeds = [str(r.seed) for r in records if r.metrics.get("test/log_likelihood_min") is None]
    if not seeds:
        return []
    word = "seed" if len(seeds) == 1 else "seeds"
    told = "was not recorded: whether it carries the mean is not known"
    return [f"the least likely test point of {word} {', '.join(seeds)} {told}"]
