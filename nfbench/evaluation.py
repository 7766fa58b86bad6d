"""From a trained module to the metrics of a record."""

import math

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from nfbench.data.base import DataModule
from nfbench.errors import FailedRunError
from nfbench.metrics import bits_per_dim, summarize
from nfbench.module import DensityModule

Metrics = dict[str, float | int | None]


def evaluate(module: DensityModule, data: DataModule, trainer: Trainer) -> tuple[Metrics, Tensor]:
    """Metrics on validation and test split, and the log-likelihood of each test row in nats.

    Raises:
        FailedRunError: if a log-likelihood is not finite.
    """
    metrics: Metrics = {}
    values = torch.empty(0)
    for split, loop, rows in (
        ("val", trainer.validate, data.val),
        ("test", trainer.test, data.test),
    ):
        loop(module, datamodule=data, verbose=False)
        values = torch.cat(module.log_probs).cpu()
        check(split, values, len(rows), module.step)
        metrics |= likelihood_metrics(split, values, data)
        if data.dataset.density_known:
            truth = torch.from_numpy(data.dataset.log_density(rows.cpu().numpy()))
            gap = summarize(truth - values)
            metrics |= {f"{split}/kl": gap.mean, f"{split}/kl_se": gap.se}
    return metrics, values


def check(split: str, values: Tensor, n: int, step: int) -> None:
    """Refuse log-likelihoods that are not as many as rows, or not finite; name the first row."""
    if len(values) != n:
        raise RuntimeError(f"{split}: expected {n} log-likelihoods, got {len(values)}")
    bad = torch.nonzero(~torch.isfinite(values)).flatten()
    if len(bad):
        first = int(bad[0])
        message = f"{split}: log-likelihood is {values[first].item()} at row {first}"
        raise FailedRunError(
            "non-finite log-likelihood", f"{message} ({len(bad)} such rows)", step=step
        )


def likelihood_metrics(split: str, values: Tensor, data: DataModule) -> Metrics:
    """Mean and standard error of the log-likelihood; bits per dimension for discrete data."""
    summary = summarize(values)
    metrics: Metrics = {
        f"{split}/log_likelihood": summary.mean,
        f"{split}/log_likelihood_se": summary.se,
        f"{split}/n": summary.n,
        f"{split}/bits_per_dim": None,
        f"{split}/bits_per_dim_se": None,
    }
    if data.dataset.levels is not None:
        n_dims = math.prod(data.dataset.event_shape)
        metrics[f"{split}/bits_per_dim"] = bits_per_dim(summary.mean, n_dims)
        metrics[f"{split}/bits_per_dim_se"] = bits_per_dim(-summary.se, n_dims)
    return metrics
