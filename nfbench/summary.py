"""The lines that a run ends with. Imports no torch."""

from collections.abc import Iterator

from nfbench.record import Record


def summary(record: Record) -> Iterator[str]:
    """One line per split: nats ± 2 standard errors, bits/dim if discrete, gap to the truth."""
    if record.failure:
        yield f"failed: {record.failure['message']}"
        return
    metrics = record.metrics
    for split in ("val", "test"):
        nats, se = metrics[f"{split}/log_likelihood"], metrics[f"{split}/log_likelihood_se"]
        n, bits = metrics[f"{split}/n"], metrics[f"{split}/bits_per_dim"]
        line = f"{split}: {nats:.4f} ± {2 * se:.4f} nats (2 standard errors, n = {n})"
        if bits is not None:
            line += f", {bits:.4f} bits/dim"
        if f"{split}/kl" in metrics:
            gap, gap_se = metrics[f"{split}/kl"], metrics[f"{split}/kl_se"]
            line += f", {gap:.4f} ± {2 * gap_se:.4f} nats from the truth"
        yield line
