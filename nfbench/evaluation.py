"""From a trained module to the metrics of a record."""

import math

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from nfbench.data.base import DataModule
from nfbench.errors import FailedRunError
from nfbench.flows.preprocessed import Preprocessed
from nfbench.metrics import bits_per_dim, summarize
from nfbench.module import TEST, VALIDATION, DensityModule

Metrics = dict[str, float | int | None]


def evaluate(module: DensityModule, data: DataModule, trainer: Trainer) -> tuple[Metrics, Tensor]:
    """Metrics on validation and test split, and the log-likelihood of each test row in nats.

    Of preprocessed data ``log_density`` is that of what the flow is given, which is what papers
    quote where they dequantize: the log-likelihood less the preprocessing's log-determinant.

    Raises:
        FailedRunError: if a log-likelihood is not finite.
    """
    metrics: Metrics = {}
    values = torch.empty(0)
    for split, phase, loop, rows in (
        ("val", VALIDATION, trainer.validate, data.val),
        ("test", TEST, trainer.test, data.test),
    ):
        loop(module, datamodule=data, verbose=False)
        values = torch.cat(module.log_probs).cpu()
        check(split, values, len(rows), module.step)
        metrics |= likelihood_metrics(split, values, data)
        if isinstance(module.model, Preprocessed):
            module.draw_from(phase, 0)
            log_dets = preprocessing_log_dets(module.model, rows, data.eval_batch_size)
            density = summarize(values - log_dets.cpu())
            metrics |= {
                f"{split}/log_density": density.mean,
                f"{split}/log_density_se": density.se,
            }
        if data.dataset.density_known:
            truth = torch.from_numpy(data.dataset.log_density(rows.cpu().numpy()))
            gap = summarize(truth - values)
            metrics |= {f"{split}/kl": gap.mean, f"{split}/kl_se": gap.se}
    return metrics, values


@torch.no_grad()
def preprocessing_log_dets(model: Preprocessed, rows: Tensor, batch_size: int) -> Tensor:
    """The log-determinant (n,) of the preprocessing of each row, in the same batches and noise."""
    return torch.cat([model.preprocessing(each)[1].double() for each in rows.split(batch_size)])


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
